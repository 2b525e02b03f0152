"""A server of tus that answers first what a test wants, and keeps what it was asked."""

import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

ID = "ff6b51b5-4030-48ed-aa5a-1b8aba37d1c4"
TUS = {"Tus-Resumable": "1.0.0"}


class TusPeer:
    """One upload; `first` has the statuses that the first requests of each method are answered.

    What it has to `say` goes into the headers of every answer.
    """

    def __init__(
        self,
        *,
        first: Mapping[str, Sequence[int]] | None = None,
        retry_after: str | None = None,
        digest: str | None = None,
        say: Mapping[str, str] | None = None,
    ) -> None:
        self.say = say or {}
        self.first = {method: list(statuses) for method, statuses in (first or {}).items()}
        self.retry_after = retry_after
        self.digest = digest
        self.methods: list[str] = []
        self.times: list[float] = []
        self.content = b""
        self._asked = threading.Condition()
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                peer.answer(self)

            do_POST = do_PATCH = do_HEAD = do_DELETE = do  # noqa: N815  # as http.server has them

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])
        self.port = str(self._server.server_port)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, method: str) -> None:
        """Wait until something was asked by this method."""
        with self._asked:
            assert self._asked.wait_for(lambda: method in self.methods, 30), self.methods

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request, and keep its body where it is a success."""
        with self._asked:
            self.methods.append(request.command)
            self.times.append(time.monotonic())
            self._asked.notify_all()
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if first := self.first.get(request.command):
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            self._send(request, first.pop(0), headers)
        elif request.command == "POST":
            self._send(request, 201, {"Location": f"/uploads/{ID}", **TUS})
        elif request.command == "DELETE":
            self._send(request, 204, {})
        elif request.path.startswith("/files/"):
            self._send(request, 200, {} if self.digest is None else {"Repr-Digest": self.digest})
        else:
            before = int(request.headers.get("Upload-Offset") or len(self.content))
            self.content += body
            status = 204 if request.command == "PATCH" else 200
            self._send(request, status, {"Upload-Offset": str(before + len(body))})

    def _send(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in ({"Content-Length": "0"} | headers | dict(self.say)).items():
            request.send_header(name, value)
        request.end_headers()
