"""What a row is: who does which work, and the bars that it is judged by."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.clients import MIB
from benchmarks.figures import Bar, Figures
from benchmarks.processes import Server
from benchmarks.systems import Missing, System, running


@dataclass(frozen=True)
class Scale:
    """How much is done, and by whom."""

    folder: Path
    size: int = 1024 * MIB  # of a bulk upload or download
    seconds: float = 3  # of small requests
    rounds: int = 4
    is_quick: bool = False
    chosen: Sequence[str] = ()  # systems, all where none is named

    def is_chosen(self, name: str) -> bool:
        """Whether a system takes part."""
        return not self.chosen or name in self.chosen


# Does the work once, and returns what it took.
Act = Callable[[], Figures]
Subjects = Mapping[str, Act]
Prepare = Callable[[Scale], AbstractContextManager[Subjects]]


@dataclass(frozen=True)
class Row:
    """A work; `prepare` starts who does it and returns the acts, which are then interleaved."""

    name: str
    title: str
    unit: str  # of which CPU is counted: "GiB" or "1,000 requests", "" where neither
    prepare: Prepare
    bars: Sequence[Bar] = ()
    over: str = "nginx"  # whom the plots compare with
    is_slow: bool = False  # takes so long beside what is measured that one round less has to do

    def count_rounds(self, scale: Scale) -> int:
        """Return how often everybody is measured."""
        return max(1, scale.rounds - 1) if self.is_slow else scale.rounds


@dataclass(frozen=True)
class Running:
    """A system and its running server."""

    system: System
    server: Server

    def clean(self, spared: Sequence[str] = ()) -> None:
        """Remove what was uploaded, but for files with these names."""
        self.system.clean(self.server.folder, spared)

    def file_of(self, path: str) -> Path:
        """Return where the bytes of an upload are that is at this path of a URL."""
        key = path.strip("/").rpartition("/")[2]
        return next(
            found for found in self.server.folder.glob(self.system.kept) if found.name == key
        )


def installed(scale: Scale, systems: Sequence[System]) -> Iterator[System]:
    """Yield those that were chosen and are installed, and say so of those that are not."""
    for system in systems:
        if scale.is_chosen(system.name):
            try:
                system.check()
            except Missing as missing:
                print(f"{system.name} is left out: {missing}", flush=True)
            else:
                yield system


@contextmanager
def fresh(scale: Scale, system: System, *flags: str) -> Iterator[Running]:
    """Run a system on a new folder until the block ends."""
    with (
        TemporaryDirectory(dir=scale.folder) as name,
        running(system, Path(name), *flags) as server,
    ):
        yield Running(system, server)


@contextmanager
def started(scale: Scale, systems: Sequence[System]) -> Iterator[Mapping[str, Running]]:
    """Run those that were chosen and are installed, each on a folder of its own."""
    with ExitStack() as stack:
        yield {
            system.name: stack.enter_context(fresh(scale, system))
            for system in installed(scale, systems)
        }
