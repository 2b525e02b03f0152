"""The composition root: the only module that knows every part."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from aiohttp import web

from file_service.blobs import folder as folders
from file_service.blobs.local import LocalStore
from file_service.catalogue import schema
from file_service.catalogue.database import Database
from file_service.catalogue.engine import connect
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.config import Settings
from file_service.core.files import Files
from file_service.core.health import Health
from file_service.core.names import is_id
from file_service.core.resumable import Resumable, Terms
from file_service.core.upkeep import Upkeep
from file_service.core.uploads import Uploads
from file_service.errors import CatalogueUnavailable, StartupError, Unavailable
from file_service.tasks import wait_for_all
from file_service.web.keys import FILES, HEALTH, LIMITS, PUBLIC, RESUMABLE, UPLOADS, Limits, Public
from file_service.web.middleware import name_answer, watch
from file_service.web.origins import allow_origin
from file_service.web.routes import add_routes

logger = logging.getLogger(__name__)

SAMPLE = 500  # blobs that tell whose a folder is
LAST_SECONDS = 5.0

# How long an upload stays in hand after a request: most are followed by the next at once.
KEEP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the service rests on, open."""

    store: LocalStore
    catalogue: Catalogue
    uploads: UploadRows
    upkeep: Upkeep


async def prepare(settings: Settings, *, is_serving: bool) -> str:
    """See that schema and folder are in order and belong together; bring them so for serving.

    Returns the store's identity; StartupError says in one line what is wrong.
    """
    is_upgrading = is_serving and settings.embedded_path is not None
    await schema.prepare(settings.database_url, upgrade=is_upgrading)
    engine = connect(settings.database_url)
    try:
        catalogue = Catalogue(Database(engine))
        await _tell_risks(catalogue)
        identity = await catalogue.find_store()
        if identity is None and is_serving:
            identity = await _claim_folder(settings.dir, catalogue)
        if identity is None:
            raise StartupError("the catalogue is new: no folder belongs to it yet")
        await folders.check_identity(settings.dir, identity)
        if is_serving:
            folders.prepare(settings.dir)
    except CatalogueUnavailable as error:
        raise StartupError(f"--database-url: {error}") from error
    except (Unavailable, OSError) as error:
        raise StartupError(f"--dir {settings.dir}: {error}") from error
    finally:
        await engine.dispose()
    return identity


async def _tell_risks(catalogue: Catalogue) -> None:
    for risk in await catalogue.find_risks():
        logger.warning(
            "PostgreSQL runs with %s=off: it can lose files that were acknowledged", risk
        )


async def _claim_folder(folder: Path, catalogue: Catalogue) -> str:
    """Join a catalogue that has no folder yet to one that is empty, or holds its files already.

    A folder of unknown files belongs to another catalogue: they would be swept as orphans.
    """
    blobs = folders.find_blobs(folder, SAMPLE)
    if blobs and not await catalogue.find_known([key for key in blobs if is_id(key)]):
        raise StartupError(f"--dir {folder}: its files are those of another catalogue")
    return await catalogue.claim_store(folders.prepare(folder))


@asynccontextmanager
async def open_parts(settings: Settings, identity: str) -> AsyncIterator[Parts]:
    """Open the store and the catalogue; they are closed with the block."""
    engine = connect(settings.database_url)
    store = LocalStore(settings.dir, chunk=settings.chunk, identity=identity)
    database = Database(engine)
    catalogue, rows = Catalogue(database), UploadRows(database)
    try:
        yield Parts(store, catalogue, rows, Upkeep(store, catalogue, rows))
    finally:
        await store.close()
        await engine.dispose()


def build_app(settings: Settings, identity: str) -> web.Application:
    """Return the application; what it holds is opened when it starts and closed when it ends."""
    app = web.Application(middlewares=[watch])
    app.on_response_prepare.append(name_answer)
    app.on_response_prepare.append(allow_origin)
    app[LIMITS], app[PUBLIC] = _make_limits(settings), _make_public(settings)
    add_routes(app, has_metrics=settings.metrics)

    async def hold_parts(app: web.Application) -> AsyncIterator[None]:
        async with open_parts(settings, identity) as parts:
            app[UPLOADS] = Uploads(
                parts.store,
                parts.catalogue,
                parts.uploads,
                parts.upkeep,
                max_size=settings.max_size,
            )
            app[FILES] = Files(parts.store, parts.catalogue, parts.uploads)
            app[RESUMABLE] = Resumable(
                parts.store,
                parts.catalogue,
                parts.uploads,
                app[FILES],
                Terms(
                    max_size=settings.max_size,
                    lifetime=timedelta(seconds=settings.upload_seconds),
                    keep_seconds=KEEP_SECONDS if settings.is_alone else 0,
                ),
            )
            app[HEALTH] = Health(parts.store, parts.catalogue)
            upkeep = asyncio.create_task(parts.upkeep.run())
            yield
            parts.upkeep.stop()
            await upkeep
            await app[RESUMABLE].close()
            # A request that was cut off may still be publishing, or taking itself back.
            await wait_for_all(LAST_SECONDS)

    app.cleanup_ctx.append(hold_parts)
    return app


def _make_limits(settings: Settings) -> Limits:
    return Limits(
        idle_seconds=settings.idle_seconds,
        min_rate=settings.min_rate,
        form_parts=settings.max_form_parts,
        form_fields=settings.max_form_fields,
    )


def _make_public(settings: Settings) -> Public:
    return Public(
        url=settings.public_url,
        origins=frozenset(settings.cors_origins),
        proxies=settings.trusted_proxies,
        forwarded_header=settings.forwarded_header,
    )
