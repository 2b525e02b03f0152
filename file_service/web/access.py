"""The access log: one line and one count for every request."""

import logging
import os
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from secrets import token_hex

from file_service.metrics import Counter

logger = logging.getLogger("file_service.access")

REQUESTS = Counter(
    "requests",
    "Requests that ended; 499 where the client left before its answer.",
    label="status",
    values=[*(str(status.value) for status in HTTPStatus), "460", "499"],
)

SENT = Counter("sent_bytes", "Bytes of files in answers, or ranges of them, that were sent whole.")

LONGEST_PATH = 1024  # of what a line shows of it


@dataclass(slots=True, kw_only=True)
class Access:
    """A request that has ended; `size` in bytes of the body that answered it."""

    request_id: str
    method: str
    path: str
    status: int
    size: int
    seconds: float
    remote: str | None
    is_cut: bool = False


_process = token_hex(8)
_requests = count()


def make_request_id() -> str:
    """Return an id that no other request has: for logs, so it need not be hard to guess."""
    return f"{_process}{os.getpid():08x}{next(_requests):08x}"


def tell(access: Access) -> None:
    """Count a request, and log it in one line."""
    REQUESTS.add(value=str(access.status))
    level = logging.DEBUG if access.status == 200 and _is_probe(access.path) else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields = {
        "request_id": access.request_id,
        "method": access.method,
        "path": access.path[:LONGEST_PATH],
        "status": access.status,
        "size": access.size,
        "seconds": round(access.seconds, 6),
        "remote": access.remote,
    }
    logger.log(level, "request", extra=fields | {"is_cut": True} if access.is_cut else fields)


def _is_probe(path: str) -> bool:
    """Whether this is a supervisor asking, every few seconds, what it is always told."""
    return path.rstrip("/") in {"/healthz", "/readyz"}
