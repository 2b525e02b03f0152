"""One client connection: half-closed senders and broken framing reach the handler, which answers.

Left alone, aiohttp drops a connection whose sending side was closed, without the answer its
client still waits for; and a body whose framing breaks leaves its handler waiting for ever.
"""

import logging

from aiohttp import StreamReader, web
from aiohttp.web_protocol import _ErrInfo

from file_service.errors import CutShort
from file_service.web.render import render_broken_request

logger = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """aiohttp's protocol of one connection, with an answer also for what cannot be parsed."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; an error it meets inside a body belongs to that body's request."""
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            body = self._current_body()
            if body is not None and not body.is_eof():
                self._messages.pop()
                body.set_exception(CutShort("The framing of the body is broken."))
                self.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp narrows asyncio's bool|None
        """Keep a half-closed connection open while an answer is owed (RFC 9112 §9.6)."""
        bodies = [payload for _, payload in self._messages]
        current = self._current_body()
        if current is not None:
            bodies.append(current)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(CutShort("The client stopped sending before the body's end."))
        if not self._messages and self._request_in_progress:
            self.close()  # after the answer
        return bool(bodies) or self._request_in_progress

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed in our own words, and close the connection."""
        if status != 400:
            return super().handle_error(request, status, exc, message)
        logger.info("a request could not be parsed", extra={"remote": request.remote})
        response = render_broken_request()
        response.force_close()
        return response

    def _current_body(self) -> StreamReader | None:
        request = self._current_request
        return None if request is None else request.content


class Server(web.Server):
    """Makes our Connections where aiohttp's server makes its own."""

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application behind our Server."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        # handler_cancellation stays off: a handler ends by the error of its body or its answer,
        # at a place where it can put things in order, not wherever it happens to wait.
        return Server(
            made.request_handler,
            request_factory=made.request_factory,
            loop=made._loop,
            **made._kwargs,
        )
