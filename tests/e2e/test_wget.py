"""wget against a real service process: names in every script, and downloads taken up again."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.conftest import MakePayload, ask_once, find_program, sha256_of, sqlite_only
from tests.processes import ServiceProcess

Wget = Callable[..., str]

NAMES = {
    "ascii": "annual report (v2), it's.pdf",
    "cyrillic and quotes": 'Годовой отчёт "за год" 2026.pdf',
    "hangul": "보고서 최종.hwp",
    "han": "報告書（最終）.pdf",
    "arabic": "تقرير سنوي.pdf",
    "hebrew": "דוח שנתי.pdf",
    "devanagari": "वार्षिक रिपोर्ट.pdf",
    "thai": "รายงานประจำปี.pdf",
    "accents": "naïve café.tar.gz",
    "emoji": "👩\u200d👧 party 🎉.jpg",
    "percent and semicolon": "a 100% b;filename=c.txt",
    "dash first": "-rf",
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder that wget saves in."""
    folder = tmp_path / "wget"
    folder.mkdir()
    return folder


@pytest.fixture
def wget(saved: Path) -> Wget:
    """Run wget and return what it said of the exchange."""
    program = find_program("wget")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [program, "--no-config", "--no-proxy", "--tries=1", "--server-response", *arguments],
            check=False,
            capture_output=True,
            cwd=saved,
            # It writes names in the encoding of the surroundings.
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr.decode()

    return run


def upload(service: ServiceProcess, name: str, content: bytes) -> str:
    answer = ask_once(service, "PUT", f"/files/{quote(name, safe='')}", content)
    assert answer.status == 201
    return service.url + answer.headers["location"]


@sqlite_only
@pytest.mark.parametrize("case", NAMES)
def test_wget_saves_a_file_under_its_own_name(
    service: ServiceProcess, wget: Wget, saved: Path, case: str
) -> None:
    wget("--content-disposition", upload(service, NAMES[case], b"content"))
    (path,) = saved.iterdir()
    assert (path.name, path.read_bytes()) == (NAMES[case], b"content")


def test_wget_saves_a_large_file_by_its_plain_link(
    service: ServiceProcess, wget: Wget, saved: Path, make_payload: MakePayload
) -> None:
    payload = make_payload("large.bin")
    link = upload(service, "large.bin", payload.path.read_bytes()).rstrip("/")
    said = wget(link)
    assert "HTTP/1.1 200 OK" in said
    (path,) = saved.iterdir()
    assert path.name == link.rpartition("/")[2]
    assert sha256_of(path) == payload.sha256


@pytest.mark.parametrize("missing", [1, 1_000_003], ids=["the last byte", "all but a beginning"])
def test_wget_takes_up_a_download_that_was_cut(
    service: ServiceProcess, wget: Wget, saved: Path, make_payload: MakePayload, missing: int
) -> None:
    payload = make_payload("large.bin", 1_000_010)
    content = payload.path.read_bytes()
    link = upload(service, "large.bin", content).rstrip("/")
    path = saved / link.rpartition("/")[2]
    path.write_bytes(content[:-missing])
    said = wget("--continue", link)
    assert "HTTP/1.1 206 Partial Content" in said
    first = payload.size - missing
    assert f"Content-Range: bytes {first}-{payload.size - 1}/{payload.size}" in said
    assert f"Content-Length: {missing}" in said
    assert list(saved.iterdir()) == [path]
    assert sha256_of(path) == payload.sha256


@sqlite_only
def test_wget_finds_that_nothing_is_left_to_take_up(
    service: ServiceProcess, wget: Wget, saved: Path
) -> None:
    link = upload(service, "whole.bin", b"content").rstrip("/")
    path = saved / link.rpartition("/")[2]
    path.write_bytes(b"content")
    said = wget("--continue", link)
    assert "HTTP/1.1 416" in said
    assert "Content-Range: bytes */7" in said
    assert path.read_bytes() == b"content"
