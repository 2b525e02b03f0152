import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from file_service import logs
from file_service.logs import structured_logs

logger = logging.getLogger("somewhere")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_is_one_json_object_with_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, structured_logs("info", file.fileno()):
        logger.info("hello %s", "мир", extra={"request_id": "r", "size": 3})
    (line,) = lines_of(path)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "somewhere",
        "pid": os.getpid(),
        "message": "hello мир",
        "request_id": "r",
        "size": 3,
    }


def test_a_traceback_is_part_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, structured_logs("info", file.fileno()):
        logger.error("failed", exc_info=ValueError("inside"))
    (line,) = lines_of(path)
    assert "ValueError: inside" in line["traceback"]


def test_what_a_client_sends_cannot_break_a_line_or_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, structured_logs("info", file.fileno()):
        logger.info("a\nb\x1b[31m\r", extra={"path": '"}\n{"forged": "\ud800'})
    assert path.read_text().count("\n") == 1
    assert "\x1b" not in path.read_text()


def test_the_level_is_kept_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, structured_logs("warning", file.fileno()):
        logger.info("quiet")
        logger.warning("loud")
    assert [line["message"] for line in lines_of(path)] == ["loud"]


def test_no_line_is_lost_or_out_of_order_from_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "log"

    def write(thread: int) -> None:
        for number in range(5_000):
            logger.info("line", extra={"thread_number": thread, "number": number})

    with path.open("wb") as file, structured_logs("info", file.fileno()):
        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = lines_of(path)
    for thread_number in range(4):
        numbers = [line["number"] for line in lines if line["thread_number"] == thread_number]
        assert numbers == list(range(5_000))


def test_a_slow_reader_gets_every_line_and_holds_nobody_up() -> None:
    reader, writer = os.pipe()
    received = bytearray()

    def read() -> None:
        while data := os.read(reader, 1000):
            received.extend(data)

    with structured_logs("info", writer):
        for number in range(10_000):  # far more than a pipe holds, before anybody reads
            logger.info("line", extra={"number": number})
        thread = threading.Thread(target=read)
        thread.start()
    os.close(writer)
    thread.join()
    os.close(reader)
    numbers = [json.loads(line)["number"] for line in received.decode().splitlines()]
    assert numbers == list(range(10_000))


def test_a_reader_that_went_away_is_no_trouble() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with structured_logs("info", writer):
        for _ in range(1000):
            logger.info("to nobody")
    os.close(writer)


def test_a_reader_that_never_reads_is_not_awaited_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(logs, "MOST_BYTES", 300_000)
    reader, writer = os.pipe()
    with structured_logs("info", writer):
        for _ in range(5000):
            logger.info("x" * 1000)
    os.close(reader)
    os.close(writer)


def test_a_non_blocking_pipe_is_written_to_its_end() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received = bytearray()

    def read() -> None:
        while data := os.read(reader, 100_000):
            received.extend(data)

    thread = threading.Thread(target=read)
    with structured_logs("info", writer):
        for _ in range(2000):
            logger.info("x" * 100)
        thread.start()
    os.close(writer)
    thread.join()
    os.close(reader)
    assert len(received.splitlines()) == 2000


def test_a_value_that_is_no_json_is_written_as_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, structured_logs("info", file.fileno()):
        logger.info("odd", extra={"value": tmp_path})
    assert lines_of(path)[0]["value"] == str(tmp_path)


def test_logging_is_as_it_was_afterwards(tmp_path: Path) -> None:
    before = (logging.getLogger().level, logging.getLogger().handlers[:])
    with (tmp_path / "log").open("wb") as file, structured_logs("debug", file.fileno()):
        pass
    assert (logging.getLogger().level, logging.getLogger().handlers[:]) == before
