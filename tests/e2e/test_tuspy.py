"""tuspy: whole and in chunks, with and without checksums, over a wire that breaks."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

from tests.cutting_proxy import cutting
from tests.e2e.conftest import MakePayload
from tests.e2e.stored import MIB, NAMED, SIZE, check_stored, service_for_module
from tests.processes import ServiceProcess

service = service_for_module

# It leaves files open to the garbage collector, which is to find them here and not in other tests.
careless = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def client_of(url: str) -> Any:
    return TusClient(f"{url}/uploads/")


@careless
@pytest.mark.parametrize("is_summed", [False, True])
@pytest.mark.parametrize("chunk", [100_000, 10**9])
def test_tuspy_sends_a_file_whole_and_in_chunks_with_and_without_checksums(
    service: ServiceProcess, make_payload: MakePayload, is_summed: bool, chunk: int
) -> None:
    payload = make_payload("x.bin", SIZE)
    uploader = client_of(service.url).uploader(
        str(payload.path), chunk_size=chunk, metadata=NAMED, upload_checksum=is_summed
    )
    uploader.upload()
    check_stored(service, uploader.url.rpartition("/")[2], payload)


@careless
def test_tuspy_without_metadata_sends_an_empty_header_which_is_none(
    service: ServiceProcess, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", 1000)
    uploader = client_of(service.url).uploader(str(payload.path))
    uploader.upload()
    file_id = uploader.url.rpartition("/")[2]
    check_stored(service, file_id, payload, file_id, "application/octet-stream")


@careless
def test_tuspy_sends_an_empty_file(service: ServiceProcess, make_payload: MakePayload) -> None:
    payload = make_payload("x.bin", 0)
    uploader = client_of(service.url).uploader(str(payload.path), metadata=NAMED)
    uploader.upload()
    check_stored(service, uploader.url.rpartition("/")[2], payload)


@careless
@pytest.mark.parametrize("is_summed", [False, True])
def test_tuspy_goes_on_from_the_address_it_has_stored(
    service: ServiceProcess, make_payload: MakePayload, tmp_path: Path, is_summed: bool
) -> None:
    payload = make_payload("x.bin", SIZE)
    storage = FileStorage(str(tmp_path / "urls.json"))
    job = {
        "chunk_size": 100_000,
        "metadata": NAMED,
        "store_url": True,
        "url_storage": storage,
        "upload_checksum": is_summed,
    }
    client = client_of(service.url)
    first = client.uploader(str(payload.path), **job)
    first.upload(stop_at=MIB)
    second = client.uploader(str(payload.path), **job)
    assert (second.url, second.offset) == (first.url, MIB)
    second.upload()
    storage.close()
    check_stored(service, second.url.rpartition("/")[2], payload)


@careless
@pytest.mark.parametrize("is_summed", [False, True])
def test_tuspy_whose_connections_are_killed_goes_on(
    service: ServiceProcess, make_payload: MakePayload, is_summed: bool
) -> None:
    payload = make_payload("x.bin", SIZE)
    with cutting(service.url, cuts=[10_000, 500_000, 500_000]) as proxy:
        uploader = client_of(proxy.url).uploader(
            str(payload.path),
            metadata=NAMED,
            retries=5,
            retry_delay=0,
            upload_checksum=is_summed,
        )
        uploader.upload()
    check_stored(service, uploader.url.rpartition("/")[2], payload)


@careless
async def test_tuspy_sends_a_file_asynchronously(
    service: ServiceProcess, make_payload: MakePayload
) -> None:
    payload = make_payload("x.bin", SIZE)
    uploader = client_of(service.url).async_uploader(
        str(payload.path), chunk_size=MIB, metadata=NAMED, upload_checksum=True
    )
    await uploader.upload()
    check_stored(service, uploader.url.rpartition("/")[2], payload)
