"""The composition root: the only module that knows every part."""

from collections.abc import AsyncIterator

from aiohttp import web

from file_service.blobs.local import LocalStore
from file_service.catalogue.engine import connect
from file_service.catalogue.queries import Catalogue
from file_service.config import Settings
from file_service.core.files import Files
from file_service.core.health import Health
from file_service.core.uploads import Uploads
from file_service.web.keys import FILES, HEALTH, UPLOADS
from file_service.web.middleware import name_answer, watch
from file_service.web.routes import add_routes


def build_app(settings: Settings) -> web.Application:
    """Return the application; what it holds is opened when it starts and closed when it ends."""
    app = web.Application(middlewares=[watch])
    app.on_response_prepare.append(name_answer)
    add_routes(app)

    async def hold_parts(app: web.Application) -> AsyncIterator[None]:
        engine = connect(settings.database_url)
        catalogue = Catalogue(engine)
        store = LocalStore(settings.dir, chunk=settings.chunk)
        try:
            await store.open()
            app[UPLOADS] = Uploads(store, catalogue, max_size=settings.max_size)
            app[FILES] = Files(store, catalogue)
            app[HEALTH] = Health(store, catalogue)
            yield
        finally:
            await store.close()
            await engine.dispose()

    app.cleanup_ctx.append(hold_parts)
    return app
