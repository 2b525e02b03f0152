"""Files by Starlette, in the manner of its documentation: no digest, no sync, no row."""

import os
from pathlib import Path
from uuid import uuid4

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

FOLDER = Path(os.environ["BENCH_FOLDER"])
COPIED = 1024 * 1024


async def upload(request: Request) -> Response:
    """Write what arrives, as it arrives."""
    key = uuid4().hex
    async with await anyio.open_file(FOLDER / key, "wb") as file:
        async for chunk in request.stream():
            await file.write(chunk)
    return Response(key, 201, headers={"Location": f"/files/{key}"})


async def upload_form(request: Request) -> Response:
    """Copy the file that the form's reader has spooled."""
    key = uuid4().hex
    async with request.form() as form, await anyio.open_file(FOLDER / key, "wb") as file:
        sent = form["file"]
        assert not isinstance(sent, str)
        while chunk := await sent.read(COPIED):
            await file.write(chunk)
    return Response(key, 201, headers={"Location": f"/files/{key}"})


async def download(request: Request) -> Response:
    """Send a file as FileResponse does it."""
    return FileResponse(FOLDER / request.path_params["key"])


app = Starlette(
    routes=[
        Route("/files/", upload, methods=["POST"]),
        Route("/form/", upload_form, methods=["POST"]),
        Route("/files/{key}", download),
    ]
)
