"""A file service as a tutorial of the early 2020s would have it: aiohttp, aiofile, SQLAlchemy.

One write for each read of the network, one INSERT for each upload, one SELECT for each download;
no digest and no sync.
"""

import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from aiofile import async_open
from aiohttp import web
from sqlalchemy import select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

FOLDER = Path(os.environ["BENCH_FOLDER"])
CHUNK = 64 * 1024

ENGINE = web.AppKey("engine", AsyncEngine)
SESSIONS = web.AppKey("sessions", async_sessionmaker[AsyncSession])


class Base(DeclarativeBase):
    """The tables."""


class File(Base):
    """A file that was uploaded."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    size: Mapped[int]
    created_at: Mapped[datetime]


async def upload(request: web.Request) -> web.Response:
    """Write what arrives, then the row."""
    key, size = uuid4().hex, 0
    async with async_open(FOLDER / key, "wb") as file:
        async for chunk in request.content.iter_any():
            await file.write(chunk)
            size += len(chunk)
    async with request.app[SESSIONS]() as session:
        name = request.query.get("filename", "file")
        session.add(File(id=key, name=name, size=size, created_at=datetime.now(UTC)))
        await session.commit()
    return web.json_response({"id": key}, status=201, headers={"Location": f"/files/{key}"})


async def download(request: web.Request) -> web.StreamResponse:
    """Look the row up, then send the bytes."""
    async with request.app[SESSIONS]() as session:
        found = await session.scalar(select(File).where(File.id == request.match_info["key"]))
    if found is None:
        raise web.HTTPNotFound
    disposition = f'attachment; filename="{found.name}"'
    response = web.StreamResponse(headers={"Content-Disposition": disposition})
    response.content_type = "application/octet-stream"
    response.content_length = found.size
    await response.prepare(request)
    async with async_open(FOLDER / found.id, "rb") as file:
        async for chunk in file.iter_chunked(CHUNK):
            assert isinstance(chunk, bytes)
            await response.write(chunk)
    await response.write_eof()
    return response


async def database(app: web.Application) -> AsyncIterator[None]:
    """Hold the engine for as long as the application runs."""
    engine = create_async_engine(os.environ["BENCH_DATABASE_URL"])
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    app[SESSIONS] = async_sessionmaker(engine, expire_on_commit=False)
    yield
    await engine.dispose()


def main() -> None:
    """Serve on the port that is named."""
    app = web.Application()
    app.cleanup_ctx.append(database)
    app.add_routes([web.post("/files/", upload), web.get("/files/{key}", download)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))


if __name__ == "__main__":
    main()
