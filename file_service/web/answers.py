"""Answers given a moment ago, given again to the same bytes: the shortest way through the house.

A request whose head is byte for byte one that was answered a moment ago, to the same client, is
not parsed and not handled a second time. So there is no second parser to disagree with the first.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp.helpers import rfc822_formatted_time

from file_service.web.access import SENT, Access, make_request_id, tell

LONGEST_HEAD = 4 * 1024
MOST_ANSWERS = 1024
MOST_BYTES = 32 * 1024 * 1024  # of heads and bodies, of all answers of a worker

Key = tuple[str, bytes]
"""The client's address and the head of its request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer with status 200, as long as it `is_current`; `fields` is its head without two.

    `request_id` is the one that the client has given its request, which is part of the head.
    """

    fields: bytes
    body: bytes
    method: str
    path: str
    remote: str | None
    request_id: str | None
    is_current: Callable[[], bool]

    def render(self, request_id: str) -> bytes:
        """Return the answer as bytes, with the fields that are different each time."""
        changing = f"Date: {rfc822_formatted_time()}\r\nX-Request-ID: {request_id}\r\n\r\n"
        return b"".join((self.fields, changing.encode(), self.body))


def format_fields(headers: dict[str, str]) -> bytes:
    """Return the head of an answer but for its date and its id."""
    kept = (f"{k}: {v}\r\n" for k, v in headers.items() if k not in {"Date", "X-Request-ID"})
    return f"HTTP/1.1 200 OK\r\n{''.join(kept)}".encode()


class Answers:
    """The answers of a worker, the oldest of which go where there are too many."""

    def __init__(self) -> None:
        self._answers: dict[Key, Answer] = {}
        self._size = 0

    def keep(self, key: Key, answer: Answer) -> None:
        """Give this answer again to whoever asks by the same bytes."""
        self._drop(key)
        self._answers[key] = answer
        self._size += _measure(key, answer)
        while self._size > MOST_BYTES or len(self._answers) > MOST_ANSWERS:
            self._drop(next(iter(self._answers)))

    def find(self, key: Key) -> bytes | None:
        """Return the answer to a request, told of in the log; None where it has to be handled."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        started = time.perf_counter()
        if not answer.is_current():
            self._drop(key)
            return None
        request_id = answer.request_id or make_request_id()
        found = answer.render(request_id)
        SENT.add(len(answer.body))
        tell(
            Access(
                request_id=request_id,
                method=answer.method,
                path=answer.path,
                status=200,
                size=len(answer.body),
                seconds=time.perf_counter() - started,
                remote=answer.remote,
            )
        )
        return found

    def _drop(self, key: Key) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self._size -= _measure(key, answer)


def _measure(key: Key, answer: Answer) -> int:
    return len(key[1]) + len(answer.fields) + len(answer.body)
