"""The works that are measured, by name, in the order of the tables."""

from benchmarks.rows import bulk, crowds, size, small, tail

ROWS = {row.name: row for row in (*bulk.ROWS, *small.ROWS, *tail.ROWS, *crowds.ROWS, *size.ROWS)}
