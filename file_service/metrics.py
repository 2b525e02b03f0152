"""Counters that all workers share, and their text as Prometheus reads it."""

from collections.abc import Iterable
from mmap import mmap

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_CELL = 8  # bytes
_MOST_CELLS = 512

_counters: "list[Counter]" = []


class _Memory:
    """Cells of memory that forked processes share: a row for each worker, so that none waits."""

    def __init__(self) -> None:
        self.used = 0
        self.make(rows=1)

    def make(self, *, rows: int) -> None:
        self._cells = memoryview(mmap(-1, rows * _MOST_CELLS * _CELL)).cast("Q")
        self.take(0)

    def take(self, row: int) -> None:
        self.row = self._cells[row * _MOST_CELLS : (row + 1) * _MOST_CELLS]

    def sum(self, cell: int) -> int:
        return sum(self._cells[cell::_MOST_CELLS])


_memory = _Memory()


class Counter:
    """A number that only grows; with a `label`, one number for each of its `values`.

    Made when its module is imported, so that every worker has the same cells.
    """

    def __init__(
        self, name: str, text: str, *, label: str = "", values: Iterable[str] = ("",)
    ) -> None:
        first = _memory.used
        self._cells = {value: first + number for number, value in enumerate(dict.fromkeys(values))}
        _memory.used += len(self._cells)
        if _memory.used > _MOST_CELLS:
            raise ValueError(f"no cells left for the counter {name}")
        self._name = f"file_service_{name}_total"
        self._text = text
        self._label = label
        _counters.append(self)

    def add(self, amount: int = 1, *, value: str = "") -> None:
        """Count; KeyError for a value that was not declared."""
        _memory.row[self._cells[value]] += amount

    def get(self, value: str = "") -> int:
        """Return the number, of all workers together."""
        return _memory.sum(self._cells[value])

    def format(self) -> str:
        """Return the lines of Prometheus' text format; values never counted are left out."""
        lines = [f"# HELP {self._name} {self._text}\n# TYPE {self._name} counter\n"]
        for value in self._cells:
            number = self.get(value)
            if not self._label:
                lines.append(f"{self._name} {number}\n")
            elif number:
                lines.append(f'{self._name}{{{self._label}="{value}"}} {number}\n')
        return "".join(lines)


def share(workers: int) -> None:
    """Begin at zero, in memory for so many workers; to be called before they are forked."""
    _memory.make(rows=workers)


def join(worker: int) -> None:
    """Count as this worker from now on; its predecessor's numbers are gone on from."""
    _memory.take(worker)


def format_all() -> str:
    """Return every counter in Prometheus' text format."""
    return "".join(counter.format() for counter in _counters)
