"""What the handlers find in the application."""

from aiohttp import web

from file_service.core.files import Files
from file_service.core.health import Health
from file_service.core.uploads import Uploads

UPLOADS = web.AppKey("uploads", Uploads)
FILES = web.AppKey("files", Files)
HEALTH = web.AppKey("health", Health)
IDLE_SECONDS = web.AppKey("idle_seconds", float)
EXPECTED = web.RequestKey("expected", str)
REQUEST_ID = web.RequestKey("request_id", str)
