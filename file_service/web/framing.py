"""Where a body ends: Content-Length and the chunked coding, told apart from its bytes in place."""

import re
from enum import Enum

from file_service.errors import CutShort

LONGEST_LINE = 4 * 1024  # bytes of a chunk's size with its extensions, or of a trailer field
LONGEST_TRAILERS = 16 * 1024

# How much is read at once of a body in tiny chunks: each costs the event loop microseconds, and
# between two reads it has time for others.
FINE = 16 * 1024
COARSE = 1 << 30
SMALLEST_CHUNK = 512

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9112 §7.1; the extensions mean nothing to the service (§7.1.1: to be ignored), but what is no
# extension may mean something to somebody before it.
_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;%b(?:=(?:%b|\"[^\x00-\x08\n-\x1f\"\\\x7f]*\"))?)*\r\n"
    % (_TOKEN, _TOKEN)
)
_TRAILER = re.compile(rb"(%b):[^\x00-\x08\n-\x1f\x7f]*\r\n" % _TOKEN)

# RFC 9110 §6.5.1: what tells where a message ends, or whom it is for, is never a trailer.
_NO_TRAILERS = {b"content-length", b"host", b"transfer-encoding"}


class Counted:
    """A body of `length` bytes (RFC 9112 §6.2)."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.surplus = b""

    @property
    def is_complete(self) -> bool:
        """Whether the last byte of the body was seen; what came behind it is in `surplus`."""
        return self._left == 0

    @property
    def most(self) -> int:
        """How many bytes may be asked for without reading past the body's end."""
        return self._left

    def decode(self, buffer: bytearray, start: int, stop: int) -> int:
        """Take buffer[start:stop] as what arrived; return where content ends in it."""
        size = min(self._left, stop - start)
        self._left -= size
        if stop > start + size:
            self.surplus = bytes(memoryview(buffer)[start + size : stop])
        return start + size


class _Expected(Enum):
    """What comes next in a chunked body, outside of a chunk's content."""

    SIZE = 1
    LINE_END = 2
    TRAILER = 3
    NOTHING = 4


class Chunked:
    """A body in the chunked coding (RFC 9112 §7.1); its content moves up to where it is decoded."""

    def __init__(self) -> None:
        self._expected = _Expected.SIZE
        self._left = 0  # bytes of the chunk that have not arrived
        self._line = b""  # the beginning of a line whose end has not arrived
        self._trailers = 0  # bytes
        self._lines = 0
        self.most = COARSE  # bytes to ask for; what is read past the end is handed on
        self.surplus = b""

    @property
    def is_complete(self) -> bool:
        """Whether the end of the body was seen; what came behind it is in `surplus`."""
        return self._expected is _Expected.NOTHING

    def decode(self, buffer: bytearray, start: int, stop: int) -> int:
        """Take buffer[start:stop] as what arrived; return where content ends in it.

        CutShort where the framing is broken.
        """
        self._lines = 0
        with memoryview(buffer) as view:
            at = end = start
            while at < stop and not self.is_complete:
                if self._left:
                    size = min(self._left, stop - at)
                    if at != end:
                        view[end : end + size] = view[at : at + size]
                    self._left -= size
                    at += size
                    end += size
                else:
                    at = self._read_line(buffer, at, stop)
            self.surplus = bytes(view[at:stop])
        self.most = FINE if self._lines * SMALLEST_CHUNK > stop - start else COARSE
        return end

    def _read_line(self, buffer: bytearray, start: int, stop: int) -> int:
        """Read up to a line's end, or keep what there is of it; return where it ends."""
        found = buffer.find(b"\n", start, stop)
        end = stop if found < 0 else found + 1
        self._line += buffer[start:end]
        if len(self._line) > LONGEST_LINE:
            raise CutShort("A line between two chunks is too long.")
        if found >= 0:
            self._lines += 1
            line, self._line = self._line, b""
            self._expected = self._take(line)
        return end

    def _take(self, line: bytes) -> _Expected:
        """Take in a line; return what is to follow it, or its chunk."""
        match self._expected:
            case _Expected.SIZE:
                return self._take_size(line)
            case _Expected.LINE_END if line == b"\r\n":
                return _Expected.SIZE
            case _Expected.TRAILER:
                return self._take_trailer(line)
        raise CutShort("A chunk of the body is longer than its size.")

    def _take_size(self, line: bytes) -> _Expected:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise CutShort("The size of a chunk could not be parsed.")
        self._left = int(match[1], 16)
        return _Expected.LINE_END if self._left else _Expected.TRAILER

    def _take_trailer(self, line: bytes) -> _Expected:
        if line == b"\r\n":
            return _Expected.NOTHING
        self._trailers += len(line)
        match = _TRAILER.fullmatch(line)
        if match is None or match[1].lower() in _NO_TRAILERS or self._trailers > LONGEST_TRAILERS:
            raise CutShort("A trailer field could not be parsed.")
        return _Expected.TRAILER  # RFC 9112 §7.1.2: to be discarded


Framing = Counted | Chunked
