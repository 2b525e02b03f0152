"""tus-js-client, in Node, with every option that changes what goes over the wire."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cutting_proxy import cutting
from tests.e2e.conftest import MakePayload, Payload, ask_once, find_node_client, info_of
from tests.e2e.stored import MIB, NAMED, SIZE, check_stored, service_for_module
from tests.processes import ServiceProcess

PROTOCOLS = ["tus-v1", "ietf-draft-03", "ietf-draft-05"]
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)

service = service_for_module

Report = dict[str, Any]
Tus = Callable[..., Report]


@pytest.fixture
def tus(service: ServiceProcess) -> Tus:
    """Run tus-js-client once; every test of it is told what happened, request by request."""
    node, script = find_node_client("tus_client.mjs")

    def run(payload: Payload, *, url: str = "", outcome: str = "success", **job: Any) -> Report:
        job.setdefault("endpoint", f"{url or service.url}/uploads/")
        job["options"] = {"metadata": NAMED, **job.get("options", {})}
        done = subprocess.run(
            [node, str(script)],
            input=json.dumps({"path": str(payload.path), **job}),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        report: Report = json.loads(done.stdout)
        assert report["outcome"] == outcome, report
        return report

    return run


def id_in(report: Report) -> str:
    """The id at the end of the address, which is the file's own where one request was all of it."""
    return urlsplit(report["url"]).path.rstrip("/").rpartition("/")[2]


def methods_in(report: Report) -> list[str]:
    return [request["method"] for request in report["requests"]]


# ── tus-js-client: every option that changes what goes over the wire ──


@every_protocol
@pytest.mark.parametrize("source", ["file", "buffer"])
def test_a_file_goes_up_in_one_patch(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload, protocol: str, source: str
) -> None:
    payload = make_payload("x.bin", SIZE)
    report = tus(payload, input=source, options={"protocol": protocol})
    assert methods_in(report) == ["POST", "PATCH"]
    check_stored(service, id_in(report), payload)


@every_protocol
@pytest.mark.parametrize("size", [0, 1, 8192, 8193])
def test_small_files_are_files(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload, protocol: str, size: int
) -> None:
    payload = make_payload("x.bin", size)
    report = tus(payload, options={"protocol": protocol, "chunkSize": 8192})
    check_stored(service, id_in(report), payload)


@every_protocol
@pytest.mark.parametrize(("chunk", "size"), [(8192, 100_001), (MIB, 5 * MIB), (MIB, 5 * MIB + 1)])
def test_a_file_goes_up_in_chunks(
    service: ServiceProcess,
    tus: Tus,
    make_payload: MakePayload,
    protocol: str,
    chunk: int,
    size: int,
) -> None:
    payload = make_payload("x.bin", size)
    report = tus(payload, options={"protocol": protocol, "chunkSize": chunk})
    assert len(report["chunks"]) == -(-size // chunk)
    check_stored(service, id_in(report), payload)


@pytest.mark.parametrize("extra", [{}, {"metadataForPartialUploads": {"filename": "part"}}])
@pytest.mark.parametrize("chunk", [None, 100_000])
def test_a_file_goes_up_in_four_parts_at_once(
    service: ServiceProcess,
    tus: Tus,
    make_payload: MakePayload,
    extra: dict[str, Any],
    chunk: int | None,
) -> None:
    payload = make_payload("x.bin", SIZE)
    options = {"parallelUploads": 4, **extra, **({"chunkSize": chunk} if chunk else {})}
    report = tus(payload, options=options)
    creations = [request for request in report["requests"] if request["method"] == "POST"]
    concats = [request["sent"].get("Upload-Concat", "") for request in creations]
    assert concats.count("partial") == 4
    assert sum(each.startswith("final;") for each in concats) == 1
    check_stored(service, id_in(report), payload)


# A stream whose length is a multiple of the chunk's never ends in tus-js-client 4.3.1 for Node: it
# waits for one more byte of it, and sends nothing.
@every_protocol
@pytest.mark.parametrize(
    ("source", "size"),
    [("stream", 1), ("stream", 99_999), ("stream", 250_001), ("buffer", 0), ("buffer", 100_000)],
)
@pytest.mark.parametrize("is_with_creation", [False, True])
def test_a_file_of_unknown_length_goes_up(
    service: ServiceProcess,
    tus: Tus,
    make_payload: MakePayload,
    protocol: str,
    source: str,
    size: int,
    is_with_creation: bool,
) -> None:
    payload = make_payload("x.bin", size)
    options = {
        "protocol": protocol,
        "uploadLengthDeferred": True,
        "chunkSize": 50_000,
        "uploadDataDuringCreation": is_with_creation,
    }
    report = tus(payload, input=source, options=options)
    if protocol == "tus-v1":
        assert report["requests"][0]["sent"]["Upload-Defer-Length"] == "1"
    check_stored(service, id_in(report), payload)


@every_protocol
@pytest.mark.parametrize(
    ("chunk", "methods"), [(None, ["POST"]), (MIB, ["POST", "PATCH", "PATCH"])]
)
def test_bytes_come_with_the_creation(
    service: ServiceProcess,
    tus: Tus,
    make_payload: MakePayload,
    protocol: str,
    chunk: int | None,
    methods: list[str],
) -> None:
    payload = make_payload("x.bin", SIZE)
    options = {"protocol": protocol, "uploadDataDuringCreation": True}
    report = tus(payload, options=options | ({"chunkSize": chunk} if chunk else {}))
    assert methods_in(report) == methods
    check_stored(service, id_in(report), payload)


@every_protocol
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("annual report (v2).txt", "text/plain"),
        ("отчёт.json", "application/json"),
        ("보고서.png", "image/png"),
        ("تقرير سنوي.mp4", "video/mp4"),
        ("दस्तावेज़ 👩‍👩‍👧.zip", "application/zip"),
    ],
)
def test_names_in_every_script_are_kept_and_tell_the_media_type(
    service: ServiceProcess,
    tus: Tus,
    make_payload: MakePayload,
    protocol: str,
    name: str,
    kind: str,
) -> None:
    payload = make_payload("x.bin", 1000)
    report = tus(payload, options={"protocol": protocol, "metadata": {"filename": name}})
    check_stored(service, id_in(report), payload, name, kind)


def test_metadata_comes_back_with_the_file_and_empty_values_are_values(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", 1000)
    metadata = {"name": "x y.txt", "type": "text/plain", "empty": ""}
    report = tus(payload, options={"metadata": metadata})
    check_stored(service, id_in(report), payload, "x y.txt", "text/plain")
    kept = info_of(service, id_in(report))["metadata"]
    assert kept.get("empty") == ""


def test_without_metadata_the_file_is_named_by_its_id(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", 1000)
    report = tus(payload, options={"metadata": {}})
    check_stored(service, id_in(report), payload, id_in(report), "application/octet-stream")


@every_protocol
def test_an_upload_that_is_given_up_for_good_is_gone(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload, protocol: str
) -> None:
    payload = make_payload("x.bin", SIZE)
    options = {"protocol": protocol, "chunkSize": 100_000}
    report = tus(payload, outcome="aborted", abortAt=MIB, terminate=True, options=options)
    assert report["requests"][-1]["method"] == "DELETE"
    assert report["requests"][-1]["status"] == 204
    for path in ("/files/", "/uploads/"):
        assert ask_once(service, "GET", f"{path}{id_in(report)}").status == 404


@every_protocol
def test_an_upload_found_again_goes_on_where_it_stopped(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload, tmp_path: Path, protocol: str
) -> None:
    payload = make_payload("x.bin", SIZE)
    storage = tmp_path / "storage.json"
    storage.write_text("{}")
    job = {
        "storage": str(storage),
        "options": {"protocol": protocol, "chunkSize": 100_000, "removeFingerprintOnSuccess": True},
    }
    first = tus(payload, outcome="aborted", abortAt=MIB, **job)
    second = tus(payload, resume=True, **job)
    assert second["found"] == 1
    assert second["url"] == first["url"]
    assert methods_in(second)[0] == "HEAD"
    assert sum(first["chunks"]) + sum(second["chunks"]) < SIZE + 2 * 100_000
    check_stored(service, id_in(second), payload)
    assert json.loads(storage.read_text()) == {}


@every_protocol
def test_an_upload_goes_on_by_its_address(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload, protocol: str
) -> None:
    payload = make_payload("x.bin", SIZE)
    options = {"protocol": protocol, "chunkSize": 100_000}
    first = tus(payload, outcome="aborted", abortAt=MIB, options=options)
    second = tus(payload, options=options | {"uploadUrl": first["url"]})
    assert methods_in(second)[0] == "HEAD"
    assert "POST" not in methods_in(second)
    check_stored(service, id_in(second), payload)


def test_parts_that_were_given_up_go_on_together(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload, tmp_path: Path
) -> None:
    payload = make_payload("x.bin", SIZE)
    storage = tmp_path / "storage.json"
    storage.write_text("{}")
    options = {"parallelUploads": 4, "chunkSize": 50_000}
    job: dict[str, Any] = {"storage": str(storage), "options": options}
    first = tus(payload, outcome="aborted", abortAt=200_000, **job)
    second = tus(payload, resume=True, **job)
    assert second["found"] == 1
    assert methods_in(second).count("HEAD") == 4
    assert sum(first["chunks"]) > 0
    check_stored(service, id_in(second), payload)


def test_an_upload_that_is_gone_is_begun_anew(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", SIZE)
    options = {"chunkSize": 100_000}
    first = tus(payload, outcome="aborted", abortAt=MIB, terminate=True, options=options)
    second = tus(payload, options=options | {"uploadUrl": first["url"]})
    assert methods_in(second)[:2] == ["HEAD", "POST"]
    assert second["url"] != first["url"]
    check_stored(service, id_in(second), payload)


@every_protocol
def test_a_client_that_cannot_send_patch_overrides_post(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload, protocol: str
) -> None:
    payload = make_payload("x.bin", SIZE)
    options = {"protocol": protocol, "overridePatchMethod": True, "chunkSize": MIB}
    report = tus(payload, options=options)
    assert set(methods_in(report)) == {"POST"}
    assert report["requests"][1]["sent"]["X-HTTP-Method-Override"] == "PATCH"
    check_stored(service, id_in(report), payload)


def test_the_request_ids_of_the_client_are_those_of_the_answers(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", SIZE)
    report = tus(payload, options={"addRequestId": True, "chunkSize": MIB})
    for request in report["requests"]:
        assert request["requestId"] == request["sent"]["X-Request-ID"]
    check_stored(service, id_in(report), payload)


# ── tus-js-client over a wire that breaks ──


def check_it_went_on(report: dict[str, Any]) -> None:
    """What was read before a wire broke was not asked for again: how much, the kernel decides."""
    sent = [each["sent"] for each in report["requests"]]
    offsets = [int(each["Upload-Offset"]) for each in sent if "Upload-Offset" in each]
    assert max(offsets) > 0, offsets
    assert offsets == sorted(offsets), "an offset fell back"


@every_protocol
@pytest.mark.parametrize("chunk", [None, 500_000])
def test_a_client_whose_connections_are_killed_goes_on_by_itself(
    service: ServiceProcess,
    tus: Tus,
    make_payload: MakePayload,
    protocol: str,
    chunk: int | None,
) -> None:
    payload = make_payload("x.bin", SIZE)
    options: dict[str, Any] = {"protocol": protocol, "retryDelays": [0, 50, 100, 200]}
    options |= {"chunkSize": chunk} if chunk else {}
    # More than is needed: one has the creation alone, where the client opens one for each request;
    # and at two workers one may end with a 409, as the other was still at what came before.
    with cutting(service.url, cuts=[900_000, 700_000, *[600_000] * 6]) as proxy:
        report = tus(payload, url=proxy.url, options=options)
    assert proxy.cut_connections >= 2
    assert "HEAD" in methods_in(report)
    check_it_went_on(report)
    check_stored(service, id_in(report), payload)


@every_protocol
def test_a_creation_whose_bytes_are_cut_off_is_tried_again(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload, protocol: str
) -> None:
    payload = make_payload("x.bin", SIZE)
    options = {
        "protocol": protocol,
        "uploadDataDuringCreation": True,
        "retryDelays": [0, 50, 100],
    }
    with cutting(service.url, cuts=[900_000]) as proxy:
        report = tus(payload, url=proxy.url, options=options)
    assert proxy.cut_connections == 1
    check_stored(service, id_in(report), payload)


def test_parts_whose_connections_are_killed_go_on_by_themselves(
    service: ServiceProcess, tus: Tus, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", 4 * SIZE)
    options = {"parallelUploads": 4, "retryDelays": [0, 50, 100, 200]}
    cuts = [1_000_000] * 6
    with cutting(service.url, cuts=cuts) as proxy:
        report = tus(payload, url=proxy.url, options=options)
    assert proxy.cut_connections >= 2
    check_stored(service, id_in(report), payload)
