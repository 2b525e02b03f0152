"""A client of tus 1.0: one request each, and what its answer means."""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from urllib.parse import urljoin

import aiohttp

CONNECT_SECONDS = 10.0

# A server that takes no bytes for so long, or gives no answer after the last one, is given up.
QUIET_SECONDS = 120.0

LONGEST_WAIT = 600.0  # seconds that a server can make us wait by Retry-After
LONGEST_ANSWER = 64 * 1024
LONGEST_NUMBER = 20  # digits

# Beside 5xx: what another attempt can be expected to get past.
PASSING = {408, 409, 423, 425, 429, 460}
GONE = {404, 410}

_SHA256 = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")

Explain = Callable[[BaseException], str]


class Failed(Exception):
    """Why the file is not there, in words for the person at the terminal."""


class Passing(Exception):
    """What another attempt may get past; not before `seconds`."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class Gone(Exception):
    """The server does not know the upload any more."""


class Body:
    """The bytes of one request; `touch` is called with each piece that is taken."""

    def __init__(self, chunks: AsyncIterator[bytes], size: int) -> None:
        self.size = size
        self.touch: Callable[[], None] = lambda: None
        self.error: Exception | None = None
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                self.touch()
                yield chunk
        except (OSError, Failed) as error:  # the file's, which aiohttp would take for its own
            self.error = error
            raise


class Client:
    """Speaks to the uploads at `url`. Raises Passing, Gone or Failed for what is no success."""

    def __init__(self, session: aiohttp.ClientSession, url: str, explain: Explain) -> None:
        self.url = url
        self._session = session
        self._explain = explain

    async def create(self, size: int, name: str | None) -> str:
        """Create an upload, a partial one where it has no name; return its address."""
        manner = {"Upload-Concat": "partial"} if name is None else _name(name)
        try:
            answer = await self._ask("POST", self.url, {"Upload-Length": str(size)} | manner, 201)
        except Gone as error:
            raise Failed(f"there are no resumable uploads at {self.url}: {error}") from error
        if "Tus-Resumable" not in answer.headers:
            raise Failed(f"{self.url} does not speak tus")
        return self._locate(answer)

    async def concatenate(self, urls: Sequence[str], name: str) -> str:
        """Make one file of finished partial uploads; return its address."""
        headers = {"Upload-Concat": f"final;{' '.join(urls)}"} | _name(name)
        return self._locate(await self._ask("POST", self.url, headers, 201))

    async def find_offset(self, url: str) -> int:
        """Return where the upload goes on."""
        return _read_offset(await self._ask("HEAD", url, {}, 200))

    async def append(self, url: str, offset: int, body: Body) -> int:
        """Send what comes from `offset` on; return where the upload goes on then."""
        headers = {
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(body.size),
        }
        return _read_offset(await self._ask("PATCH", url, headers, 204, body))

    async def find_digest(self, url: str) -> bytes | None:
        """Return the SHA-256 of the file that an upload has become, None where none is told."""
        answer = await self._ask("HEAD", urljoin(url, f"../files/{find_id(url)}/"), {}, 200)
        match = _SHA256.search(answer.headers.get("Repr-Digest", ""))
        with suppress(binascii.Error):
            return None if match is None else base64.b64decode(match[1])
        return None

    async def delete(self, url: str) -> bool:
        """Take the upload away, and the file that it has become; return whether it is gone."""
        try:
            await self._ask("DELETE", url, {}, 204)
        except (Passing, Failed):
            return False
        except Gone:
            pass
        return True

    async def _ask(
        self, method: str, url: str, headers: dict[str, str], status: int, body: Body | None = None
    ) -> aiohttp.ClientResponse:
        headers = {"Tus-Resumable": "1.0.0", **headers}
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(QUIET_SECONDS) as quiet:
                if body is not None:
                    body.touch = lambda: quiet.reschedule(loop.time() + QUIET_SECONDS)
                async with self._session.request(
                    method, url, headers=headers, data=body, allow_redirects=False
                ) as answer:
                    if answer.status != status:
                        raise await _judge(answer)
                    return answer
        except (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError) as error:
            raise Failed(f"cannot connect to {url}: {self._explain(error)}") from error
        except TimeoutError:
            raise Passing(f"{url} has been silent for {QUIET_SECONDS:g} seconds") from None
        except (aiohttp.ClientError, OSError) as error:
            if body is not None and body.error is not None:
                raise Failed(self._explain(body.error)) from error
            raise Passing(f"the connection to {url} failed: {self._explain(error)}") from error

    def _locate(self, answer: aiohttp.ClientResponse) -> str:
        location = answer.headers.get("Location")
        if not location:
            raise Failed(f"{self.url} does not say where the upload is")
        try:
            return urljoin(self.url, location)
        except ValueError as error:
            raise Failed(f"{self.url} says that the upload is at no address at all") from error


def find_id(url: str) -> str:
    """Return the id at the end of an upload's address."""
    return url.rstrip("/").rpartition("/")[2]


def _name(name: str) -> dict[str, str]:
    # Python keeps bytes of a name that are not UTF-8 as lone surrogates, which base64 cannot take.
    encoded = re.sub("[\ud800-\udfff]", "\ufffd", name).encode()
    return {"Upload-Metadata": f"filename {base64.b64encode(encoded).decode()}"}


def _read_offset(answer: aiohttp.ClientResponse) -> int:
    text = answer.headers.get("Upload-Offset", "")
    if not (text.isascii() and text.isdigit() and len(text) < LONGEST_NUMBER):
        raise Failed(f"{answer.url} does not speak tus: it says no Upload-Offset")
    return int(text)


async def _judge(answer: aiohttp.ClientResponse) -> Exception:
    """Return what an answer that is no success means."""
    message = f"the server answered {answer.status} {await _describe(answer)}".rstrip()
    if answer.status in GONE:
        return Gone(message)
    if answer.status in PASSING or answer.status >= 500:
        return Passing(message, _read_wait(answer))
    return Failed(message)


async def _describe(answer: aiohttp.ClientResponse) -> str:
    """Return the words of an RFC 9457 problem, or the reason of the status line."""
    with suppress(aiohttp.ClientError, OSError, ValueError, RecursionError):
        problem = json.loads(await answer.content.read(LONGEST_ANSWER))
        if isinstance(problem, dict) and isinstance(problem.get("title"), str):
            detail = problem.get("detail")
            return problem["title"] + (f": {detail}" if isinstance(detail, str) else "")
    return answer.reason or ""


def _read_wait(answer: aiohttp.ClientResponse) -> float:
    """Return the seconds of a Retry-After; a date is not worth the clocks that differ."""
    text = answer.headers.get("Retry-After", "")
    is_number = text.isascii() and text.isdigit() and len(text) < LONGEST_NUMBER
    return min(float(text), LONGEST_WAIT) if is_number else 0.0
