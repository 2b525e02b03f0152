"""The composition root: the only module that knows every part."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from file_service.blobs import disk
from file_service.blobs.local import LocalStore
from file_service.catalogue import schema
from file_service.catalogue.engine import connect
from file_service.catalogue.queries import Catalogue
from file_service.config import Settings
from file_service.core.files import Files
from file_service.core.health import Health
from file_service.core.upkeep import Upkeep
from file_service.core.uploads import Uploads
from file_service.errors import StartupError, Unavailable
from file_service.web.keys import FILES, HEALTH, LIMITS, PUBLIC, UPLOADS, Limits, Public
from file_service.web.middleware import name_answer, watch
from file_service.web.origins import allow_origin
from file_service.web.routes import add_routes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the service rests on, open."""

    store: LocalStore
    catalogue: Catalogue
    upkeep: Upkeep


async def prepare(settings: Settings) -> str:
    """Bring schema and folder in order and see that they belong together.

    Returns the store's identity; StartupError says in one line what is wrong.
    """
    is_embedded = settings.embedded_path is not None
    await schema.prepare(settings.database_url, upgrade=is_embedded)
    engine = connect(settings.database_url)
    try:
        return await _claim_folder(settings, Catalogue(engine))
    except (Unavailable, OSError) as error:
        raise StartupError(f"--dir {settings.dir}: {error}") from error
    finally:
        await engine.dispose()


async def _claim_folder(settings: Settings, catalogue: Catalogue) -> str:
    for risk in await catalogue.find_risks():
        logger.warning(
            "PostgreSQL runs with %s=off: it can lose files that were acknowledged", risk
        )
    identity = await catalogue.find_store()
    if identity is None:
        identity = await catalogue.claim_store(disk.prepare(settings.dir))
    await disk.check_identity(settings.dir, identity)
    return identity


@asynccontextmanager
async def open_parts(settings: Settings, identity: str) -> AsyncIterator[Parts]:
    """Open the store and the catalogue; they are closed with the block."""
    engine = connect(settings.database_url)
    store = LocalStore(settings.dir, chunk=settings.chunk, identity=identity)
    catalogue = Catalogue(engine)
    try:
        yield Parts(store, catalogue, Upkeep(store, catalogue))
    finally:
        await store.close()
        await engine.dispose()


def build_app(settings: Settings, identity: str) -> web.Application:
    """Return the application; what it holds is opened when it starts and closed when it ends."""
    app = web.Application(middlewares=[watch])
    app.on_response_prepare.append(name_answer)
    app.on_response_prepare.append(allow_origin)
    app[LIMITS] = Limits(
        idle_seconds=settings.idle_seconds,
        form_parts=settings.max_form_parts,
        form_fields=settings.max_form_fields,
    )
    app[PUBLIC] = Public(
        url=settings.public_url,
        origins=frozenset(settings.cors_origins),
        proxies=settings.trusted_proxies,
    )
    add_routes(app)

    async def hold_parts(app: web.Application) -> AsyncIterator[None]:
        async with open_parts(settings, identity) as parts:
            app[UPLOADS] = Uploads(
                parts.store, parts.catalogue, parts.upkeep, max_size=settings.max_size
            )
            app[FILES] = Files(parts.store, parts.catalogue)
            app[HEALTH] = Health(parts.store, parts.catalogue)
            upkeep = asyncio.create_task(parts.upkeep.run())
            yield
            parts.upkeep.stop()
            await upkeep

    app.cleanup_ctx.append(hold_parts)
    return app
