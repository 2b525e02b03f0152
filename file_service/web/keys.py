"""What the handlers find in the application and on a request."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from aiohttp import web

from file_service.core.files import Files
from file_service.core.health import Health
from file_service.core.resumable import Resumable
from file_service.core.uploads import Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for; sizes in bytes."""

    idle_seconds: float = 60.0
    min_rate: int = 1024  # a second
    form_parts: int = 100
    form_fields: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """How the service is seen from outside: its address, the pages and proxies it trusts."""

    url: str = ""
    origins: frozenset[str] = frozenset()
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    forwarded_header: str = "X-Forwarded-For"


UPLOADS = web.AppKey("uploads", Uploads)
RESUMABLE = web.AppKey("resumable", Resumable)
FILES = web.AppKey("files", Files)
HEALTH = web.AppKey("health", Health)
LIMITS = web.AppKey("limits", Limits)
PUBLIC = web.AppKey("public", Public)

# Where the upload is that a request has made, and which dialect an upload is spoken of in.
CREATED = web.RequestKey("created", str)
DIALECT = web.RequestKey("dialect", str)
EXPECTED = web.RequestKey("expected", str)
IS_CUT = web.RequestKey("is_cut", bool)
REQUEST_ID = web.RequestKey("request_id", str)
