"""curl speaks the IETF draft of resumable uploads: as docs/resumable.md shows, on every setting."""

import re
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import MakeService
from tests.cutting_proxy import cutting
from tests.e2e.conftest import (
    Curl,
    MakePayload,
    Payload,
    ask_once,
    find_program,
    info_of,
    sqlite_only,
)
from tests.processes import ServiceProcess

SIZE = 3_000_017
MIDDLE = 1_234_567
NAME = "Отчёт 보고서.pdf"
DISPOSITION = ("-H", f"Content-Disposition: attachment; filename*=UTF-8''{quote(NAME)}")
PARTIAL = ("-H", "Content-Type: application/partial-upload")
TEXT = ("-H", "Content-Type: application/octet-stream")


@pytest.fixture(params=["1", "2"], ids=["one worker", "two workers"])
def service(request: pytest.FixtureRequest, make_service: MakeService) -> ServiceProcess:
    return make_service("--workers", request.param)


def check_stored(service: ServiceProcess, file_id: str, payload: Payload) -> None:
    info = info_of(service, file_id)
    assert (info["name"], info["size"]) == (NAME, payload.size)
    answer = ask_once(service, "GET", f"/files/{file_id}/")
    assert (answer.status, answer.sha256) == (200, payload.sha256)
    assert answer.headers["content-type"] == "application/pdf"


def says(complete: str, interop: int | None = 6, offset: int | None = None) -> list[str]:
    """The flags with which curl speaks the draft."""
    fields = {
        "Upload-Complete": complete,
        "Upload-Draft-Interop-Version": interop,
        "Upload-Offset": offset,
        "Expect": "",
    }
    return [
        flag
        for name, value in fields.items()
        if value is not None
        for flag in ("-H", f"{name}: {value}" if value != "" else f"{name}:")
    ]


def find(shown: str, name: str, status: int) -> str:
    """The value of a header of the last answer of that status that curl has shown."""
    heads = re.findall(rf"HTTP/1\.1 {status} .*?\r\n\r\n", shown, re.DOTALL)
    assert heads, shown
    match = re.search(rf"^{name}: (.*)\r$", heads[-1], re.MULTILINE | re.IGNORECASE)
    assert match, heads[-1]
    return match[1]


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "first", tmp_path / "second"


@pytest.mark.parametrize("address", ["/files/", "/uploads/"])
def test_a_file_goes_up_in_two_requests(
    service: ServiceProcess,
    curl: Curl,
    make_payload: MakePayload,
    halves: tuple[Path, Path],
    address: str,
) -> None:
    payload = make_payload("x.bin", SIZE)
    content = payload.path.read_bytes()
    halves[0].write_bytes(content[:MIDDLE])
    halves[1].write_bytes(content[MIDDLE:])

    shown = curl(
        *("-i", "-X", "POST", "--data-binary", f"@{halves[0]}", *says("?0")),
        *(*TEXT, *DISPOSITION, service.url + address),
    )
    upload = service.url + find(shown, "Location", 104)
    assert find(shown, "Upload-Draft-Interop-Version", 104) == "6"
    assert service.url + find(shown, "Location", 201) == upload
    assert find(shown, "Upload-Offset", 201) == str(MIDDLE)
    assert find(shown, "Upload-Complete", 201) == "?0"

    shown = curl("-I", *says("?0", interop=6)[2:4], upload)
    assert find(shown, "Upload-Offset", 204) == str(MIDDLE)
    assert find(shown, "Upload-Complete", 204) == "?0"

    shown = curl(
        *("-i", "-X", "PATCH", "--data-binary", f"@{halves[1]}", *says("?1", offset=MIDDLE)),
        *(*PARTIAL, upload),
    )
    assert find(shown, "Upload-Complete", 201) == "?1"
    file_id = shown.rpartition("\r\n\r\n")[2]
    assert find(shown, "Location", 201) == f"/files/{file_id}/"
    check_stored(service, file_id, payload)


@pytest.mark.parametrize("address", ["/files/", "/uploads/"])
def test_an_upload_cut_off_goes_on_at_the_address_that_the_104_told(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload, tmp_path: Path, address: str
) -> None:
    payload = make_payload("x.bin", SIZE)
    with cutting(service.url, cuts=[MIDDLE]) as proxy:
        cut = subprocess.run(
            [
                *(find_program("curl"), "--disable", "--noproxy", "*", "--silent", "-i"),
                *("-X", "POST", "--data-binary", f"@{payload.path}", *says("?1")),
                *(*TEXT, *DISPOSITION, proxy.url + address),
            ],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert cut.returncode != 0
    upload = service.url + find(cut.stdout.decode(), "Location", 104)

    offset = int(find(curl("-I", upload), "Upload-Offset", 204))
    assert MIDDLE - 200_000 < offset < MIDDLE

    rest = tmp_path / "rest"
    rest.write_bytes(payload.path.read_bytes()[offset:])
    file_id = curl(
        *("-X", "PATCH", "--data-binary", f"@{rest}", *says("?1", interop=None, offset=offset)),
        *(*PARTIAL, upload),
    )
    check_stored(service, file_id, payload)


@sqlite_only
@pytest.mark.parametrize("interop", [5, 6, 7, 8, 9])
def test_what_comes_at_once_is_answered_as_without_the_draft(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload, interop: int
) -> None:
    payload = make_payload("x.bin", SIZE)
    shown = curl(
        *("-i", "-X", "POST", "--data-binary", f"@{payload.path}", *says("?1", interop)),
        *(*TEXT, *DISPOSITION, f"{service.url}/files/"),
    )
    assert find(shown, "Upload-Draft-Interop-Version", 104) == str(interop)
    check_stored(service, shown.rpartition("\r\n\r\n")[2], payload)


@sqlite_only
@pytest.mark.parametrize("interop", [None, 4, 10])
def test_whoever_does_not_name_a_version_we_speak_is_sent_no_104(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload, interop: int | None
) -> None:
    payload = make_payload("x.bin", SIZE)
    shown = curl(
        *("-i", "-X", "POST", "--data-binary", f"@{payload.path}", *says("?1", interop)),
        *(*TEXT, *DISPOSITION, f"{service.url}/files/"),
    )
    assert " 104 " not in shown
    check_stored(service, shown.rpartition("\r\n\r\n")[2], payload)


def test_a_pipe_of_unknown_length_goes_up(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", SIZE)
    file_id = curl(
        *("-X", "POST", "-T", "-", *says("?1"), *TEXT, *DISPOSITION, f"{service.url}/files/"),
        content=payload.path.read_bytes(),
    )
    check_stored(service, file_id.rpartition("\r\n\r\n")[2], payload)


def test_an_upload_that_is_cancelled_is_gone(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", SIZE)
    shown = curl(
        *("-i", "-X", "POST", "--data-binary", f"@{payload.path}", *says("?0")),
        *(*TEXT, *DISPOSITION, f"{service.url}/files/"),
    )
    upload = find(shown, "Location", 201)
    assert " 204 " in curl("-i", "-X", "DELETE", service.url + upload)
    assert ask_once(service, "HEAD", upload).status == 404
