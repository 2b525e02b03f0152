"""What the benchmarks make of what they measured: pure functions, no server."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.clients import KIB, MIB, Refused, make_frames, make_pieces
from benchmarks.figures import Bar, at_least, at_most, judge, middle, ratio
from benchmarks.filling import MOST_LINKS, choose_ids, fill_catalogue, link_blobs, make_id
from benchmarks.results import MARKS, Result, format_number, format_table, show_in_readme
from benchmarks.rows import ROWS
from benchmarks.wrk import Report, parse_report

REPORT = (
    'report {"requests": 8, "duration": 2000000, "p50": 1500.0, "p99": 9000.0, '
    '"errors": {"status": 0, "timeout": 0}}'
)


def test_what_wrk_says_is_read_in_seconds_and_milliseconds() -> None:
    output = f"Running 2s test @ http://127.0.0.1\n  8 requests in 2s\n{REPORT}\n"
    assert parse_report(output) == Report(requests=8, seconds=2.0, p50=1.5, p99=9.0)


@pytest.mark.parametrize(
    "output",
    [
        REPORT.replace('"status": 0', '"status": 1'),
        REPORT.replace('"requests": 8', '"requests": 0'),
        "Running 2s test",
    ],
)
def test_a_load_that_was_not_answered_well_is_refused(output: str) -> None:
    with pytest.raises(Refused):
        parse_report(output)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    rounds = {
        "ours": [{"rate": 10.0}, {"rate": 3.0}, {"rate": 8.0}],
        "nginx": [{"rate": 10.0}, {"rate": 2.0}, {"rate": 16.0}],
    }
    assert ratio(rounds, "rate", "ours", "nginx") == 1.0
    assert ratio(rounds, "cpu", "ours", "nginx") is None
    assert ratio(rounds, "rate", "ours", "copyparty") is None
    assert middle(rounds["nginx"], "rate") == 10.0


@pytest.mark.parametrize(
    ("bar", "word"),
    [
        (at_least(0.8, "nginx"), "ok"),
        (at_least(0.81, "nginx"), "missed"),
        (at_most(2, "nginx"), "ok"),
        (at_most(1.9, "nginx"), "missed"),
        (at_most(30, metric="growth"), "ok"),
        (at_most(29, metric="growth"), "missed"),
        (at_least(1, "starlette"), "not measured"),
        (at_most(1, metric="p99"), "not measured"),
    ],
)
def test_a_row_is_judged_by_its_bars(bar: Bar, word: str) -> None:
    ours, nginx = {"rate": 8.0, "cpu": 2.0, "growth": 30.0}, {"rate": 10.0, "cpu": 1.0}
    assert judge(bar, {"ours": [ours], "nginx": [nginx]}).word == word


def test_a_row_that_failed_is_not_kept() -> None:
    row = ROWS["idle"]
    assert Result(row, {"ours": [{"growth": 1.0}]}, 1, 1).is_kept
    assert not Result(row, {"ours": [{"growth": 1.0}]}, 1, 1, failures={"ours": "OSError"}).is_kept
    assert Result(row, {"ours": [{"growth": 1.0}]}, 1, 1, failures={"nginx": "OSError"}).is_kept
    assert not Result(row, {"ours": [{"growth": 33.0}]}, 1, 1).is_kept


def test_numbers_are_written_as_long_as_they_are_worth() -> None:
    assert [format_number(each) for each in (None, 0.123, 12.34, 1234.5)] == [
        "",
        "0.12",
        "12.3",
        "1,234",
    ]


def test_a_table_is_markdown() -> None:
    assert format_table(("a", "b"), [("c", "1")]) == "| a | b |\n| --- | ---: |\n| c | 1 |"


def test_the_page_shows_the_last_verdicts_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before {MARKS[0]} old {MARKS[1]} after")
    show_in_readme([Result(ROWS["idle"], {"ours": [{"growth": 1.0}]}, 1, 1)], page)
    text = page.read_text()
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert "| ok |" in text
    assert "old" not in text


def unchunk(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        assert body[length : length + 2] == b"\r\n"
        whole, body = whole + body[:length], body[length + 2 :]
    return whole


@pytest.mark.parametrize("size", [1, 5, KIB, MIB, 2 * MIB + 5, 2 * MIB + 64 * KIB])
def test_a_body_is_the_same_in_every_shape(size: int) -> None:
    whole = b"".join(map(bytes, make_pieces(size)))
    assert len(whole) == size
    assert unchunk(b"".join(map(bytes, make_frames(size)))) == whole
    assert len({hashlib.sha256(bytes(piece)).digest() for piece in make_pieces(4 * MIB)}) == 4


def test_made_rows_are_copies_with_ids_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE file (id TEXT PRIMARY KEY, name TEXT, size INTEGER)")
        connection.execute("INSERT INTO file VALUES ('model', 'a.bin', 5)")
        connection.commit()
    fill_catalogue(path, 300)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT * FROM file WHERE id != 'model'").fetchall()
    assert sorted(rows) == [(make_id(number, 300), "a.bin", 5) for number in range(300)]
    assert len(set(choose_ids(200, 300))) == 200
    assert set(choose_ids(200, 300)) < {each for each, _, _ in rows}


def test_made_blobs_have_as_many_names_as_a_file_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_LINKS < 65_000
    monkeypatch.setattr("benchmarks.filling.MOST_LINKS", 10)
    (tmp_path / "model").write_bytes(b"content")
    ids = [make_id(number, 25) for number in range(25)]
    link_blobs(tmp_path, tmp_path / "model", ids)
    assert {(tmp_path / each[:2] / each).read_bytes() for each in ids} == {b"content"}
    assert {(tmp_path / each[:2] / each).stat().st_nlink for each in ids} == {10, 5}
