"""One client connection: heads go through aiohttp's parser, bodies past it.

Left alone, aiohttp drops a connection whose sending side was closed, without the answer its
client still waits for.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.web import RequestPayloadError
from aiohttp.web_protocol import ERROR, MAX_MSG_QUEUE_SIZE, _ErrInfo
from multidict import CIMultiDictProxy

from file_service.errors import CutShort
from file_service.web.access import make_request_id
from file_service.web.answers import LONGEST_HEAD, Answer, Answers, format_fields
from file_service.web.framing import Framing
from file_service.web.headers import combine
from file_service.web.intake import Buffers, Intake
from file_service.web.keys import EXPECTED, REQUEST_ID
from file_service.web.proxies import find_client
from file_service.web.render import format_response, render_broken_request

logger = logging.getLogger(__name__)

# What a handler gets to put things in order once its request is cut off.
CUT_SECONDS = 0.25
LOOK_SECONDS = 0.1

# Bytes of a body that are taken in before its handler asks for them.
MOST_HELD = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections there may be, and how long a request's head may take and be."""

    most: int
    head_seconds: float
    head_size: int  # bytes


class Connection(web.RequestHandler):
    """aiohttp's protocol of one connection, with an answer also for what cannot be parsed.

    Its parser sees heads alone. What follows a head with a body waits until a handler opens the
    body, and an Intake reads it; or until an answer is there without, and then it is thrown away.
    """

    __slots__ = (
        "_body", "_head", "_head_size", "_head_timer", "_held", "_intake", "_is_half_closed",
        "_is_left", "_is_refused", "_limits", "_make_parser", "_peer", "_rest", "_tail",
    )  # fmt: skip

    # The body of the request parsed last: the only one that can still be on its way; and what has
    # arrived of it, before it is opened.
    _body: StreamReader
    _held: bytearray | None
    _intake: Intake | None
    # Whether nobody wants the rest of the body.
    _is_left: bool
    # What has arrived and waits for the parser to have room; the end of an unfinished head.
    _rest: bytes
    _tail: bytes
    # The head of the request in hand, where its bytes are known; and who sends it.
    _head: bytes
    _peer: str
    # Bytes of a head that is arriving, and whether it was refused.
    _head_size: int
    _is_refused: bool
    # Runs while a request's head is arriving.
    _head_timer: asyncio.TimerHandle | None
    # Whether the client has said that nothing more comes.
    _is_half_closed: bool
    _limits: ConnectionLimits

    def __init__(self, manager: "Server", *, loop: asyncio.AbstractEventLoop, **kwargs: Any):
        super().__init__(manager, loop=loop, **kwargs)
        self._make_parser = partial(_make_parser, self, loop, kwargs)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin without a body; one connection too many ends at once."""
        manager = self._server
        self._body, self._held, self._intake, self._is_left = EMPTY_PAYLOAD, None, None, False
        self._rest = self._tail = self._head = b""
        self._peer = str((transport.get_extra_info("peername") or ("",))[0])
        self._head_timer, self._limits = None, manager.limits
        self._head_size, self._is_refused = 0, False
        self._is_half_closed = False
        super().connection_made(transport)
        if len(manager.connections) > self._limits.most:
            manager.refuse(self)
        else:
            self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the timer with the connection."""
        self._forget_head()
        super().connection_lost(exc)

    @property
    def _server(self) -> "Server":
        if not isinstance(self._manager, Server):
            raise TypeError("a Connection belongs to a Server")
        return self._manager

    # ── heads ──

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._limits.head_seconds, self._drop_head)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _drop_head(self) -> None:
        """Close a connection whose next request does not arrive whole, however it drips."""
        self._head_timer = None
        if self._is_idle():
            self.force_close()

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def data_received(self, data: bytes) -> None:
        """Feed the parser, a head at a time; hold back what belongs to a body."""
        if self._is_idle() and self._answer_again(data):
            return
        data, self._rest = self._rest + data, b""
        while not (self._is_refused or self._is_left):
            if self._held is not None:
                self._hold(self._held, data)
                return
            head, data = self._split(data)
            self._feed(head)
            if not data:
                return
            if len(self._messages) >= MAX_MSG_QUEUE_SIZE:  # aiohttp calls when it wants more
                self._rest = data
                return

    def _answer_again(self, data: bytes) -> bool:
        """Answer a whole head that is known, past everything that would do it again."""
        if len(data) > LONGEST_HEAD or self._head_size or self._rest or self._is_left:
            return False
        transport = self.transport
        if transport is None or transport.get_write_buffer_size():
            return False
        answer = self._server.answers.find((self._peer, data))
        if answer is None:
            return False
        transport.write(answer)
        self._forget_head()
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True

    def keep_answer(
        self,
        request: web.Request,
        response: web.Response,
        body: bytes,
        is_current: Callable[[], bool],
    ) -> None:
        """Give an answer again to the very head it answers, as long as it is current."""
        is_plain = request.method == "GET" and request.version == HttpVersion11
        if not self._head or not is_plain or not response.keep_alive:
            return
        request_id = request[REQUEST_ID]
        answer = Answer(
            fields=format_fields(dict(response.headers)),
            body=body,
            method=request.method,
            path=request.path,
            remote=find_client(request),
            request_id=request_id if request.headers.get("X-Request-ID") == request_id else None,
            is_current=is_current,
        )
        self._server.answers.keep((self._peer, self._head), answer)

    def _split(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what belongs to the next head, and what lies behind its end."""
        seen = self._tail + data
        found = seen.find(b"\r\n\r\n")
        if found < 0:
            self._tail = seen[-3:]
            return data, b""
        end = found + 4 - len(self._tail)
        self._tail = b""
        return data[:end], data[end:]

    def _feed(self, data: bytes) -> None:
        parsed, is_whole = len(self._messages), self._is_idle() and not self._head_size
        super().data_received(data)
        # Known beyond doubt for a request that came alone, in one piece.
        self._head = data if is_whole and len(self._messages) == 1 else b""
        if len(self._messages) == parsed:
            self._limit_head(len(data))
            if data and self._is_idle():
                self._expect_head()
            return
        self._head_size = 0
        self._forget_head()
        message, body = self._messages[-1]
        if not isinstance(message, _ErrInfo) and not body.is_eof():
            self._body, self._held = body, bytearray()
            # Its answer leaves open how much of what follows is its body: never known again.
            self._head = b""

    def _limit_head(self, size: int) -> None:
        """Refuse a head that grows too long, all its fields together."""
        self._head_size += size
        if self._head_size > self._limits.head_size and not self._is_refused:
            self._is_refused = True
            self._refuse_head()

    def _refuse_head(self) -> None:
        """Answer a head that never ends; past aiohttp, which answers what its parser has ended."""
        if not self._is_idle() or not isinstance(self.transport, asyncio.Transport):
            self.close()  # after the answer to what came before
            return
        self.transport.write(format_response(render_broken_request(make_request_id(), 431)))
        # What still arrives is thrown away, until the head's time is over: closed at once, the
        # connection would be reset before the client has read the answer.
        self.transport.write_eof()

    # ── bodies ──

    def _hold(self, held: bytearray, data: bytes) -> None:
        held += data
        if len(held) >= MOST_HELD:
            self._pause_transport_reading()

    def open_body(self, content: StreamReader, framing: Framing) -> Intake | None:
        """Begin to read the body of the request that has this `content`.

        None where it has none, or no more of it is to be had; CutShort where the client is gone.
        """
        if content.is_eof() or content is not self._body or self._held is None:
            return None
        if not isinstance(self.transport, asyncio.Transport):
            raise CutShort("The connection broke.")
        arrived, self._held = self._held, None
        self._intake = intake = Intake(self, self.transport, framing, self._server.buffers)
        self._resume_transport_reading()
        intake.open(arrived, is_at_end=self._is_half_closed)
        return intake

    def has_whole_body(self, content: StreamReader, length: int) -> bool:
        """Whether all `length` bytes of a body that is not open yet have arrived."""
        return content is self._body and self._held is not None and len(self._held) >= length

    def forgo_body(self) -> None:
        """Throw away what has not been read of an open body, and whatever still comes of it."""
        if self._intake is not None:
            self._intake.close()

    def end_body(self, surplus: bytes) -> None:
        """Go on with the head behind the body, with a parser that has not seen any."""
        self._take_back()
        self._parser = self._make_parser()
        self._body.feed_eof()
        if surplus:
            self.data_received(surplus)
        if self._is_half_closed and not self._messages:
            self.close()  # after the answer

    def leave_body(self, error: CutShort | None) -> None:
        """Throw away what comes: the connection ends with the answer."""
        self._take_back()
        self._held = None
        self._is_left = True
        self._resume_transport_reading()
        if error is not None:
            # Nothing more comes that would have to be read for the client to see its answer.
            self._lingering_time = 0.0
            self.close()  # after the answer

    def _take_back(self) -> None:
        self._intake = None
        if self.transport is not None:
            self.transport.set_protocol(self)

    # ── ends ──

    @property
    def is_at_end(self) -> bool:
        """Whether no request follows the one in hand: its answer closes the connection."""
        return self._is_half_closed and not self._messages

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp narrows asyncio's bool|None
        """Keep a half-closed connection open while an answer is owed (RFC 9112 §9.6)."""
        self._is_half_closed = True
        if self._is_idle():
            return False
        if self._is_left:
            self._body.set_exception(CutShort("The client stopped sending."))
            self._lingering_time = 0.0
        if not self._messages and self._held is None:
            self.close()  # after the answer
        return True

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log what aiohttp did not expect; clients that leave when refused are expected."""
        if not isinstance(kwargs.get("exc_info"), CutShort):
            super().log_exception(*args, **kwargs)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed in our own words, and close the connection."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client left while its answer was sent: nobody to tell
        if status != 400:
            return super().handle_error(request, status, exc, message)
        request_id = make_request_id()
        extra = {"remote": request.remote, "request_id": request_id}
        logger.info("a request could not be parsed", extra=extra)
        response = render_broken_request(request_id, _choose_status(exc))
        response.force_close()
        return response


def _make_parser(
    connection: Connection, loop: asyncio.AbstractEventLoop, options: dict[str, Any]
) -> HttpRequestParser:
    """Return a parser as aiohttp makes one for a new connection."""
    return HttpRequestParser(
        connection,
        loop,
        options["read_bufsize"],
        max_line_size=options["max_line_size"],
        max_field_size=options["max_field_size"],
        payload_exception=RequestPayloadError,
        auto_decompress=options["auto_decompress"],
        max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
    )


def _choose_status(error: BaseException | None) -> int:
    """Return what tells a client most of a request that could not be parsed."""
    if isinstance(error, LineTooLong):
        # RFC 9112 §3: 414 is for a target, which the parser does not tell from a field; a target
        # begins with a slash.
        return 414 if error.args[0].startswith(b"/") else 431
    return 400


class Server(web.Server):
    """Makes our Connections, and requests that are continued when their body is read."""

    def __init__(self, handler: Any, *, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        self.limits = limits
        self.buffers = Buffers()
        self.answers = Answers()
        self._refusals_told_at = float("-inf")

    def pre_shutdown(self) -> None:
        """Close no connection yet: aiohttp throws away what arrives on a closing one.

        An upload under way could never end. While the service stops, answers close connections.
        """

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # aiohttp's
        """Give the requests in hand `timeout` seconds to end, then cut them off."""
        deadline = self._loop.time() + (timeout or 0)
        # Looked for again and again: one may have begun on a connection that was idle.
        while (tasks := self._find_busy()) and (left := deadline - self._loop.time()) > 0:
            await asyncio.wait(tasks, timeout=min(left, LOOK_SECONDS))
        super().pre_shutdown()
        await super().shutdown(CUT_SECONDS)

    def _find_busy(self) -> list[asyncio.Task[None]]:
        busy = (each for each in self.connections if each._request_in_progress or each._messages)
        return [each._task_handler for each in busy if each._task_handler is not None]

    def refuse(self, connection: Connection) -> None:
        """Close a connection that is one too many; a flood of them is one log line a second."""
        connection.force_close()
        now = self._loop.time()
        if now - self._refusals_told_at >= 1:
            self._refusals_told_at = now
            logger.warning("too many connections", extra={"most": self.limits.most})

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def set_request_factory(self, make: Callable[..., web.BaseRequest]) -> None:
        """Make requests by `make`, without their Expect header: `body` answers it in its time.

        aiohttp sends 100 before it asks any handler, on unknown routes, too. Of a target in
        absolute form (RFC 9112 §3.2.2) the path alone is kept: the host means nothing to the
        service, and one that cannot be decoded would leave its connection without an answer, for
        as long as the client likes.
        """

        def make_without_expect(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
            if message is ERROR:  # what was no request is answered in our version (RFC 9110 §2.5)
                message = message._replace(version=HttpVersion11)
            if message.url.absolute:
                message = message._replace(url=message.url.relative())
            if "Expect" not in message.headers:
                return make(message, *rest)
            expected = combine(message.headers, "Expect") or ""
            headers = message.headers.copy()
            headers.popall("Expect")
            request = make(message._replace(headers=CIMultiDictProxy(headers)), *rest)
            request[EXPECTED] = expected
            return request

        self.request_factory = make_without_expect


class Runner(web.AppRunner):
    """Runs an application behind our Server."""

    def __init__(self, app: web.Application, *, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._limits = limits

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        # handler_cancellation stays off: a handler ends by the error of its body or its answer,
        # at a place where it can put things in order, not wherever it happens to wait.
        server = Server(made.request_handler, limits=self._limits, loop=made._loop, **made._kwargs)
        server.set_request_factory(made.request_factory)
        return server
