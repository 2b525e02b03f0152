"""What is remembered of unfinished uploads: one small JSON file, locked while a run has it."""

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from resuming.client import Failed


@dataclass
class Part:
    """A span of the file, and the upload that takes it; `url` is None until that is created."""

    start: int
    end: int
    url: str | None = None


@dataclass
class Entry:
    """An unfinished upload of a file that had this size, and was changed at this time.

    `url` is where its parts were put together, None until they are; they may be from when it
    `is_sent`.
    """

    size: int
    mtime_ns: int
    parts: list[Part] = field(default_factory=list)
    url: str | None = None
    is_sent: bool = False


# Whoever knows an upload's address may end it: nobody else reads these.
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def choose_folder() -> Path:
    """Return where programs keep what they remember, by the XDG Base Directory Specification."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not Path(base).is_absolute():  # the specification: anything else is ignored
        try:
            base = str(Path.home() / ".local" / "state")
        except RuntimeError as error:
            raise Failed("there is no home folder to remember uploads in: name --state") from error
    return Path(base) / "file-service" / "uploads"


def choose_file(path: Path, server: str) -> Path:
    """Return the file that remembers the upload of `path` to `server`."""
    name = hashlib.sha256(f"{server}\0{path.absolute()}".encode(errors="surrogateescape"))
    return choose_folder() / f"{name.hexdigest()}.json"


class Memory:
    """The uploads that one file remembers; a context in which no other run uses it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock_file = file.with_name(f"{file.name}.lock")
        self._lock = -1
        self._entries: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
        except BlockingIOError:
            raise Failed("another run is uploading it") from None
        except OSError as error:
            raise Failed(f"cannot use {self._file}: {error.strerror}") from error
        # Nothing, or nonsense: nothing is remembered.
        with suppress(OSError, ValueError, TypeError, RecursionError):
            self._entries = dict(json.loads(self._file.read_text()))
        return self

    def _take_lock(self) -> None:
        while True:
            lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it before may have taken the name away in between.
                if os.path.samestat(os.fstat(lock), self._lock_file.stat()):
                    self._lock = lock
                    return
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def __exit__(self, *_error: object) -> None:
        self._lock_file.unlink(missing_ok=True)
        os.close(self._lock)

    def find(self, key: str) -> Entry | None:
        """Return what is remembered under `key`, None where that is nothing usable."""
        try:
            entry = self._entries[key]
            parts = [
                Part(int(p["start"]), int(p["end"]), _as_url(p["url"])) for p in entry["parts"]
            ]
            size, mtime_ns, url = int(entry["size"]), int(entry["mtime_ns"]), _as_url(entry["url"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        bounds = [0, *(part.end for part in parts)]
        if not parts or [*(part.start for part in parts), size] != bounds:
            return None
        return Entry(size, mtime_ns, parts, url, is_sent=entry.get("is_sent") is True)

    def keep(self, key: str, entry: Entry) -> None:
        """Remember an upload, whatever happens from now on."""
        self._entries[key] = asdict(entry)
        self._write()

    def forget(self, key: str) -> None:
        """Remember nothing of it any more."""
        if self._entries.pop(key, None) is not None:
            self._write()

    def _write(self) -> None:
        try:
            if not self._entries:
                self._file.unlink(missing_ok=True)
                return
            new = self._file.with_name(f"{self._file.name}.new")
            with open(os.open(new, _WRITE, 0o600), "w") as file:  # noqa: PTH123  # its mode
                json.dump(self._entries, file, indent=1)
            new.replace(self._file)
        except OSError as error:
            raise Failed(f"cannot write {self._file}: {error.strerror}") from error


def _as_url(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.startswith(("http://", "https://"))):
        return value
    raise ValueError("no address of an upload")
