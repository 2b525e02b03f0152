import base64
import hashlib
from typing import Any

import pytest

from file_service.errors import DigestInvalid, DigestUnsupported
from file_service.web.headers import format_digests, parse_digests, parse_wanted_digests
from tests.conftest import Client, Leftovers

BODY = b"content" * 1000
TYPES = "https://iana.org/assignments/http-problem-types#"


def digest(algorithm: str, body: bytes = BODY) -> str:
    hashed = hashlib.new(algorithm.replace("-", ""), body).digest()
    return f"{algorithm}=:{base64.b64encode(hashed).decode()}:"


RIGHT_256, RIGHT_512 = digest("sha-256"), digest("sha-512")
WRONG_256, WRONG_512 = digest("sha-256", b"x"), digest("sha-512", b"x")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        (RIGHT_256, ["sha-256"]),
        (f"{RIGHT_512} , {RIGHT_256}", ["sha-512", "sha-256"]),
        (f"md5=:AAAA:, {RIGHT_256}", ["sha-256"]),
        (f"{RIGHT_256};a=1;b", ["sha-256"]),
    ],
)
def test_digest_headers_are_read(value: str | None, names: list[str]) -> None:
    assert list(parse_digests(value)) == names


@pytest.mark.parametrize(
    "value",
    [
        "sha-256",
        "sha-256=abc",
        "sha-256=:a:",
        "sha-256=:AAAA:",
        "sha-256=:%%%:",
        f"{RIGHT_256},",
        f"{RIGHT_256} {RIGHT_256}",
        "sha-512=:" + RIGHT_256.partition(":")[2],
    ],
)
def test_malformed_digest_headers_are_refused(value: str) -> None:
    with pytest.raises(DigestInvalid):
        parse_digests(value)


@pytest.mark.parametrize("value", ["md5=:AAAA:", "crc32c=:AAAA:, unixsum=:AAAA:"])
def test_digests_that_cannot_be_verified_are_refused(value: str) -> None:
    with pytest.raises(DigestUnsupported):
        parse_digests(value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, []),
        ("sha-256=1", ["sha-256"]),
        ("sha-256=1, sha-512=10", ["sha-512", "sha-256"]),
        ("sha-512=0", []),
        ("md5=10", []),
        ("sha-256=11", []),
        ("nonsense", []),
        ("sha-512=3;x=y", ["sha-512"]),
    ],
)
def test_wanted_digests_are_read_in_the_order_of_their_weight(
    value: str | None, wanted: list[str]
) -> None:
    assert parse_wanted_digests(value) == wanted


def test_several_digests_are_one_dictionary() -> None:
    hexes = {
        name: hashlib.new(name.replace("-", ""), BODY).hexdigest()
        for name in ("sha-256", "sha-512")
    }
    assert format_digests(hexes) == f"{RIGHT_256}, {RIGHT_512}"


async def post(client: Client, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post("/files/", data=BODY, headers=named) as response:
        await response.read()
        return response


@pytest.mark.parametrize("field", ["Content-Digest", "Repr-Digest"])
@pytest.mark.parametrize("value", [RIGHT_256, RIGHT_512, f"{RIGHT_256}, {RIGHT_512}"])
async def test_a_digest_that_matches_is_taken(client: Client, field: str, value: str) -> None:
    response = await post(client, **{field: value})
    assert response.status == 201
    assert RIGHT_256 in response.headers["Repr-Digest"]
    assert (RIGHT_512 in response.headers["Repr-Digest"]) is ("sha-512" in value)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Digest": WRONG_256}, "digest-mismatched-values"),
        ({"Repr-Digest": WRONG_512}, "digest-mismatched-values"),
        ({"Repr-Digest": f"{RIGHT_256}, {WRONG_512}"}, "digest-mismatched-values"),
        ({"Content-Digest": RIGHT_256, "Repr-Digest": WRONG_256}, "digest-mismatched-values"),
        ({"Content-Digest": "md5=:AAAA:"}, "digest-unsupported-algorithms"),
        ({"Repr-Digest": "sha-256=oops"}, "digest-invalid-values"),
    ],
)
async def test_a_digest_that_does_not_match_stores_nothing(
    client: Client, leftovers: Leftovers, headers: dict[str, str], code: str
) -> None:
    async with client.post("/files/", data=BODY, headers=headers) as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["type"]) == (400, TYPES + code)
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


@pytest.mark.parametrize(("is_right", "status"), [(True, 201), (False, 400)])
async def test_the_digest_of_a_form_is_that_of_its_body(
    client: Client, leftovers: Leftovers, is_right: bool, status: int
) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\ncontent\r\n--b--\r\n'
    )
    headers = {
        "Content-Type": "multipart/form-data; boundary=b",
        "Content-Digest": digest("sha-256", body if is_right else b"content"),
    }
    async with client.post("/files/", data=body, headers=headers) as response:
        assert response.status == status
    assert await leftovers.rows() == (1 if is_right else 0)


async def test_the_digest_that_is_wanted_is_kept_and_sent(client: Client) -> None:
    response = await post(client, Want_Repr_Digest="sha-512=10")
    assert RIGHT_512 in response.headers["Repr-Digest"]
    path = response.headers["Location"]
    for wanted, expected in (
        ({}, RIGHT_256),
        ({"Want-Repr-Digest": "sha-512=1"}, RIGHT_512),
        ({"Want-Repr-Digest": "sha-512=1, sha-256=2"}, f"{RIGHT_256}, {RIGHT_512}"),
        ({"Want-Repr-Digest": "md5=5"}, RIGHT_256),
    ):
        for method, extra in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-9"})):
            async with client.request(method, path, headers=wanted | extra) as got:
                assert got.headers["Repr-Digest"] == expected


async def test_a_digest_that_nobody_asked_for_in_time_is_not_computed_later(
    client: Client,
) -> None:
    path = (await post(client)).headers["Location"]
    async with client.head(path, headers={"Want-Repr-Digest": "sha-512=10"}) as response:
        assert response.headers["Repr-Digest"] == RIGHT_256
