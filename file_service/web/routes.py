"""The whole URL map on one screen; a trailing slash is optional everywhere."""

from aiohttp import web

from file_service.web import downloads, files, page, resumable, status, uploads

ONE = "/files/{id:[^/]+}"
UPLOAD = "/uploads/{id:[^/]+}"
SLASH = "{slash:/?}"


def add_routes(app: web.Application, *, has_metrics: bool = False) -> None:
    """Add every route of the service to `app`, /metrics only where it is asked for."""
    route = app.router.add_route

    _add_page(app)

    route("POST", f"/files{SLASH}", uploads.post_file)
    route("PUT", f"{ONE}{SLASH}", uploads.put_file)  # here {id} is a file name
    route("GET", f"{ONE}{SLASH}", downloads.get_file)
    route("HEAD", f"{ONE}{SLASH}", downloads.get_file)
    route("DELETE", f"{ONE}{SLASH}", files.delete_file)
    route("GET", f"{ONE}/info{SLASH}", files.get_info)
    route("HEAD", f"{ONE}/info{SLASH}", files.get_info)

    route("OPTIONS", f"/files{SLASH}", resumable.get_options)
    route("OPTIONS", f"/uploads{SLASH}", resumable.get_options)
    route("POST", f"/uploads{SLASH}", resumable.post_uploads)
    route("OPTIONS", f"{UPLOAD}{SLASH}", resumable.get_options)
    route("HEAD", f"{UPLOAD}{SLASH}", resumable.head_upload)
    route("GET", f"{UPLOAD}{SLASH}", resumable.get_upload)
    route("PATCH", f"{UPLOAD}{SLASH}", resumable.patch_upload)
    route("DELETE", f"{UPLOAD}{SLASH}", resumable.delete_upload)
    route("POST", f"{UPLOAD}{SLASH}", resumable.post_upload)

    route("GET", f"/healthz{SLASH}", status.get_healthz)
    route("HEAD", f"/healthz{SLASH}", status.get_healthz)
    route("GET", f"/openapi.json{SLASH}", status.get_openapi)
    route("HEAD", f"/openapi.json{SLASH}", status.get_openapi)
    route("GET", f"/problems/{{code}}{SLASH}", status.get_problem)
    route("HEAD", f"/problems/{{code}}{SLASH}", status.get_problem)
    route("GET", f"/readyz{SLASH}", status.get_readyz)
    route("HEAD", f"/readyz{SLASH}", status.get_readyz)
    if has_metrics:
        route("GET", f"/metrics{SLASH}", status.get_metrics)
        route("HEAD", f"/metrics{SLASH}", status.get_metrics)


def _add_page(app: web.Application) -> None:
    route = app.router.add_route
    route("GET", "/", page.get_page)
    route("HEAD", "/", page.get_page)
    route("GET", f"/static/{{name}}{SLASH}", page.get_asset)
    route("HEAD", f"/static/{{name}}{SLASH}", page.get_asset)
