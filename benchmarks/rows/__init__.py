"""The works that are measured, by name, in the order of the tables."""

from benchmarks.rows import bulk, small

ROWS = {row.name: row for row in (*bulk.ROWS, *small.ROWS)}
