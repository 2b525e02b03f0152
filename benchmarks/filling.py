"""Catalogues and stores of a size that takes years by uploading, made in a minute."""

import os
import random
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

# A random id begins with any eight hexadecimal digits; these are spread as evenly, in key order,
# since SQLite fills a tree fastest from left to right.
ID = "printf('%08x-0000-4000-8000-%012x', {number} * {step}, {number})"
MOST_LINKS = 60_000  # ext4 allows a file 65,000 names


def make_id(number: int, count: int) -> str:
    """Return the id of one row among `count`, as SQLite makes it below."""
    return f"{number * (2**32 // count):08x}-0000-4000-8000-{number:012x}"


def fill_catalogue(database: Path, count: int) -> None:
    """Add `count` rows, each like the one that is there, by a single statement.

    The service must not run meanwhile: nothing is journalled.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        found = connection.execute("SELECT name FROM pragma_table_info('file')").fetchall()
        names = [name for (name,) in found]
        made = ID.format(number="number", step=2**32 // count)
        values = [made if name == "id" else f'"{name}"' for name in names]
        columns = ", ".join(f'"{name}"' for name in names)
        connection.execute(
            f"""
            WITH RECURSIVE numbers(number) AS (
                SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count - 1}
            ), model AS MATERIALIZED (SELECT * FROM file LIMIT 1)
            INSERT INTO file ({columns}) SELECT {", ".join(values)} FROM numbers, model
            """
        )
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def choose_ids(count: int, rows: int) -> Sequence[str]:
    """Return ids of that many different rows, chosen evenly, the same every time."""
    return [make_id(number, rows) for number in random.Random(6).sample(range(rows), count)]


def link_blobs(blobs: Path, model: Path, ids: Iterable[str]) -> None:
    """Give each id a blob: further names of a few copies of one file."""
    source = model
    for made, each in enumerate(ids):
        folder = blobs / each[:2]
        if made % MOST_LINKS == 0:
            folder.mkdir(exist_ok=True)
            source = folder / each
            shutil.copyfile(model, source)
        else:
            try:
                os.link(source, folder / each)
            except FileNotFoundError:
                folder.mkdir()
                os.link(source, folder / each)
