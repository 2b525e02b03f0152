"""One client connection: half-closed senders and broken framing reach the handler, which answers.

Left alone, aiohttp drops a connection whose sending side was closed, without the answer its
client still waits for; and a body whose framing breaks leaves its handler waiting for ever.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo
from multidict import CIMultiDictProxy

from file_service.errors import CutShort
from file_service.web.headers import combine
from file_service.web.keys import EXPECTED
from file_service.web.render import format_response, render_broken_request

logger = logging.getLogger(__name__)

# What a handler gets to put things in order once its request is cut off.
CUT_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections there may be, and how long a request's head may take and be."""

    most: int
    head_seconds: float
    head_size: int  # bytes


class Connection(web.RequestHandler):
    """aiohttp's protocol of one connection, with an answer also for what cannot be parsed."""

    __slots__ = (
        "_body", "_head_size", "_head_timer", "_is_half_closed", "_is_refused", "_limits",
    )  # fmt: skip

    # The body of the request parsed last: the only one that can still be on its way.
    _body: StreamReader
    # Bytes of a head that is arriving, and whether it was refused.
    _head_size: int
    _is_refused: bool
    # Runs while a request's head is arriving.
    _head_timer: asyncio.TimerHandle | None
    # Whether the client has said that nothing more comes.
    _is_half_closed: bool
    _limits: ConnectionLimits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin without a body; one connection too many ends at once."""
        manager = self._manager
        if not isinstance(manager, Server):
            raise TypeError("a Connection belongs to a Server")
        self._body, self._head_timer, self._limits = EMPTY_PAYLOAD, None, manager.limits
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
        """Feed the parser; an error it meets inside a body belongs to that body's request."""
        if self._is_refused:
            return
        parsed, is_head = len(self._messages), self._body.is_eof()
        super().data_received(data)
        self._limit_head(len(data) if is_head and len(self._messages) == parsed else 0)
        if not self._messages:
            if data and self._is_idle():
                self._expect_head()
            return
        self._forget_head()
        message, body = self._messages[-1]
        if not isinstance(message, _ErrInfo):
            self._body = body
        elif not self._body.is_eof():
            self._messages.pop()
            self._break_body("The framing of the body is broken.")
            self.close()  # after the answer

    def _limit_head(self, size: int) -> None:
        """Refuse a head that grows too long, all its fields together; 0 where it is no head."""
        self._head_size = self._head_size + size if size else 0
        if self._head_size > self._limits.head_size and not self._is_refused:
            self._is_refused = True
            self._refuse_head()

    def _refuse_head(self) -> None:
        """Answer a head that never ends; past aiohttp, which answers what its parser has ended."""
        if not self._is_idle() or not isinstance(self.transport, asyncio.Transport):
            self.close()  # after the answer to what came before
            return
        self.transport.write(format_response(render_broken_request(uuid4().hex, 431)))
        # What still arrives is thrown away, until the head's time is over: closed at once, the
        # connection would be reset before the client has read the answer.
        self.transport.write_eof()

    @property
    def is_at_end(self) -> bool:
        """Whether no request follows the one in hand: its answer closes the connection."""
        return self._is_half_closed and not self._messages

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp narrows asyncio's bool|None
        """Keep a half-closed connection open while an answer is owed (RFC 9112 §9.6)."""
        self._is_half_closed = True
        if self._is_idle():
            return False
        if not self._body.is_eof():
            self._break_body("The client stopped sending before the body's end.")
        if not self._messages:
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
        request_id = uuid4().hex
        extra = {"remote": request.remote, "request_id": request_id}
        logger.info("a request could not be parsed", extra=extra)
        response = render_broken_request(request_id, _choose_status(exc))
        response.force_close()
        return response

    def _break_body(self, why: str) -> None:
        self._body.set_exception(CutShort(why))
        # Nothing more comes that would have to be read for the client to see its answer.
        self._lingering_time = 0.0


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
        self._refusals_told_at = float("-inf")

    def pre_shutdown(self) -> None:
        """Close no connection yet: aiohttp throws away what arrives on a closing one.

        An upload under way could never end. While the service stops, answers close connections.
        """

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # aiohttp's
        """Give the requests in hand `timeout` seconds to end, then cut them off."""
        busy = [each._task_handler for each in self.connections if each._request_in_progress]
        if tasks := [task for task in busy if task is not None]:
            await asyncio.wait(tasks, timeout=timeout)
        super().pre_shutdown()
        await super().shutdown(CUT_SECONDS)

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
