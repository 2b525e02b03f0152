"""multipart/form-data read part by part as it arrives, in bounded memory (RFC 7578, 2046 §5.1)."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from file_service.errors import CutShort, EncodedContent, Malformed, TooLarge
from file_service.models import Chunks
from file_service.web.headers import (
    TOKEN,
    Disposition,
    parse_media_type,
    parse_part_disposition,
    repair,
)

LONGEST_HEADERS = 8 * 1024  # bytes of one part's header fields
LONGEST_MARGIN = 64 * 1024  # bytes before the first and after the last boundary

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_FIELD = re.compile(rf"({TOKEN}):[ \t]*([^\x00-\x08\n-\x1f\x7f]*)")
_PADDING = re.compile(rb"[ \t]*")
_AS_IT_IS = {"", "7bit", "8bit", "binary"}


@dataclass(slots=True)
class Part:
    """One part of a form: its headers, and its bytes, to be read before the next part."""

    name: str
    filename: str | None
    content_type: str | None
    content_digest: str | None
    chunks: AsyncIterator[bytes] = field(repr=False)


def parse_boundary(content_type: str) -> bytes:
    """Return the boundary that a multipart Content-Type names; Malformed where it names none."""
    boundary = parse_media_type(content_type)[1].get("boundary", "")
    if _BOUNDARY.fullmatch(boundary) is None:
        raise Malformed("The Content-Type of a form must name a boundary of 1 to 70 characters.")
    return boundary.encode()


async def read_parts(chunks: Chunks, boundary: bytes, most: int) -> AsyncIterator[Part]:
    """Yield the parts of a form, at most `most`; what a part's reader leaves is passed over.

    Raises Malformed for what is no form, CutShort where the last boundary does not come, and
    TooLarge for parts, headers or margins beyond the limits above.
    """
    form = _Form(chunks, boundary)
    await form.skip_preamble()
    count = 0
    while await form.has_next():
        count += 1
        if count > most:
            raise TooLarge(f"A form may have at most {most} parts.")
        part = await form.read_head()
        yield part
        async for _ in part.chunks:
            pass
    await form.skip_epilogue()


async def read_text(part: Part, room: int) -> str:
    """Return a text field's value; TooLarge where it has more than the `room` bytes left."""
    value = bytearray()
    async for chunk in part.chunks:
        value += chunk
        if len(value) > room:
            raise TooLarge("The text fields of the form are too long.")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise Malformed(f"The form field {part.name!r} is not UTF-8.") from None
    if "\0" in text:
        raise Malformed(f"The form field {part.name!r} contains a NUL character.")
    return text


async def pass_over(part: Part) -> None:
    """Read a part that a browser sends where no file was chosen; Malformed where it has bytes."""
    async for chunk in part.chunks:
        if chunk:
            raise Malformed(f"The file in the form field {part.name!r} has no name.")


class _Form:
    """The bytes of a form, looked at through a buffer that never holds much more than a chunk."""

    def __init__(self, chunks: Chunks, boundary: bytes) -> None:
        self._source = aiter(chunks)
        self._delimiter = b"\r\n--" + boundary
        # The first boundary may stand at the very start, without the CRLF that belongs to it.
        self._buffer = b"\r\n"

    async def skip_preamble(self) -> None:
        await self._pass_over(self._until_delimiter(), "before its first boundary")

    async def skip_epilogue(self) -> None:
        # Read to the end: only there the framing of the whole body is known to be sound.
        await self._pass_over(self._rest(), "after its last boundary")

    async def has_next(self) -> bool:
        """Read what follows a delimiter: the end of its line, or the two dashes of the last."""
        await self._need(lambda: len(self._buffer) >= 2)
        if self._buffer.startswith(b"--"):
            self._buffer = self._buffer[2:]
            return False
        await self._need(lambda: b"\r\n" in self._buffer)
        self._buffer = self._buffer[_PADDING.match(self._buffer).end() :]  # type: ignore[union-attr]  # it matches nothing at all, too
        if not self._buffer.startswith(b"\r\n"):
            raise Malformed("A boundary of the form is followed by something else on its line.")
        return True

    async def read_head(self) -> Part:
        """Read the header fields of a part, from the CRLF that ends its delimiter's line."""
        await self._need(lambda: b"\r\n\r\n" in self._buffer)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if len(head) > LONGEST_HEADERS:
            raise TooLarge(f"The headers of a part may have at most {LONGEST_HEADERS} bytes.")
        fields = _parse_fields(head)
        disposition = _check_disposition(fields)
        name = disposition.parameters.get("name", "")
        if not name.isprintable():  # percent-encoded line breaks, among others
            raise Malformed("The name of a form's part must be printable.")
        return Part(
            name=name,
            filename=disposition.filename,
            content_type=fields.get("content-type"),
            content_digest=fields.get("content-digest"),
            chunks=self._until_delimiter(),
        )

    async def _until_delimiter(self) -> AsyncIterator[bytes]:
        delimiter = self._delimiter
        while (at := self._buffer.find(delimiter)) < 0:
            # A carriage return near the end may begin the delimiter; all before it is content.
            safe = self._buffer.rfind(b"\r", max(0, len(self._buffer) - len(delimiter) + 1))
            safe = len(self._buffer) if safe < 0 else safe
            if safe:
                content, self._buffer = self._buffer[:safe], self._buffer[safe:]
                yield content
            await self._fill()
        content, self._buffer = self._buffer[:at], self._buffer[at + len(delimiter) :]
        if content:
            yield content

    async def _rest(self) -> AsyncIterator[bytes]:
        yield self._buffer
        async for chunk in self._source:
            yield bytes(chunk)

    async def _pass_over(self, chunks: Chunks, where: str) -> None:
        passed = 0
        async for chunk in chunks:
            passed += len(chunk)
            if passed > LONGEST_MARGIN:
                raise TooLarge(f"The form has more than {LONGEST_MARGIN} bytes {where}.")

    async def _need(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            if len(self._buffer) > LONGEST_HEADERS:
                raise TooLarge(f"The headers of a part may have at most {LONGEST_HEADERS} bytes.")
            await self._fill()

    async def _fill(self) -> None:
        chunk = await anext(self._source, None)
        if chunk is None:
            raise CutShort("The form ended before its last boundary.")
        self._buffer += chunk  # a copy: the chunk is its giver's


def _parse_fields(head: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "surrogateescape").split("\r\n"):
        if not line:
            continue
        match = _FIELD.fullmatch(repair(line))
        if match is None:
            raise Malformed("A part of the form has a malformed header field.")
        name = match[1].lower()
        if name in fields:
            raise Malformed(f"A part of the form has the header {name} twice.")
        fields[name] = match[2].strip()
    return fields


def _check_disposition(fields: dict[str, str]) -> Disposition:
    disposition = parse_part_disposition(fields.get("content-disposition", ""))
    if disposition.type != "form-data":
        raise Malformed("The Content-Disposition of a form's part must be form-data.")
    # RFC 7578 §4.7: deprecated; decoding it would store other bytes than were sent.
    if fields.get("content-transfer-encoding", "").lower() not in _AS_IT_IS:
        raise Malformed("A form's part must not have a Content-Transfer-Encoding.")
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise EncodedContent("Send each file as it is, without Content-Encoding.")
    return disposition
