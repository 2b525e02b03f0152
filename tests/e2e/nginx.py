"""A real nginx in front of a real service, configured by the very block of the operator's page."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.conftest import Answer, eventually, find_program
from tests.processes import ServiceProcess, running_service

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"

# From here clients call, so that their address is told from the proxy's.
CLIENT = "127.0.0.2"

MAX_SIZE = 64 * 1024 * 1024

# What Debian's nginx.conf would say; every path is in a folder of the test's own.
WRAPPER = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    log_format test '$request_id $status $request_uri';
    access_log {folder}/access.log test;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""


@dataclass(frozen=True)
class Variant:
    """One way to set nginx up."""

    scheme: str = "http"
    path: str = ""
    is_buffered: bool = False
    listen: str = ""


VARIANTS = {
    "unbuffered": Variant(),
    "buffered": Variant(is_buffered=True),
    "below a path": Variant(path="/storage"),
    "tls": Variant(scheme="https", listen="ssl"),
    "http2": Variant(scheme="https", listen="ssl http2"),
}


def read_block() -> str:
    """Return the configuration that the operator's page shows."""
    return PAGE.read_text().partition("```nginx\n")[2].partition("```")[0]


def write_block(variant: Variant, folder: Path, listen: str, upstream: str) -> str:
    """Fill addresses and paths into the page's block, and change what the variant is about."""
    changes = {
        "listen 443 ssl;": f"listen {listen} {variant.listen} reuseport;",
        "server 127.0.0.1:8080;": f"server {upstream};",
        "files.example.org;": "localhost;",
        "/etc/ssl/files.example.org": str(folder / "tls"),
    }
    if variant.scheme == "http":
        changes |= {"ssl_certificate ": "# ", "ssl_certificate_key": "# "}
    if variant.path:
        changes["proxy_pass http://file_service;"] = "proxy_pass http://file_service/;"
        changes["location /metrics"] = f"location {variant.path}/metrics"
        changes["location / "] = f"location {variant.path}/ "
    if variant.is_buffered:  # and HTTP/1.0 towards the service, as it is where nothing is said
        changes |= {"buffering off": "buffering on", "proxy_http_version 1.1": "# "}
    block = read_block()
    for old, new in changes.items():
        assert old in block, f"the page's configuration has no {old!r} any more"
        block = block.replace(old, new)
    return block


@dataclass(frozen=True)
class Site:
    """A service, seen through nginx."""

    variant: Variant
    service: ServiceProcess
    address: tuple[str, int]
    folder: Path
    store: Path
    trust: tuple[str, ...] = field(default=())  # what curl needs to believe the certificate

    @property
    def root(self) -> str:
        """The address that the outside knows."""
        return f"{self.variant.scheme}://{self.address[0]}:{self.address[1]}{self.variant.path}"

    @property
    def files(self) -> str:
        """Where uploads go."""
        return f"{self.root}/files/"

    def curl_command(self, *arguments: str) -> list[str]:
        """Return the command of a curl that calls from CLIENT."""
        quiet = ("--disable", "--noproxy", "*", "--silent", "--show-error")
        return [find_program("curl"), *quiet, "--interface", CLIENT, *self.trust, *arguments]

    def curl(self, *arguments: str, content: bytes | None = None) -> Answer:
        """Run curl to its end; return the last answer it got."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            head, body = Path(name, "head"), Path(name, "body")
            outputs = ("--dump-header", str(head), "--output", str(body))
            done = subprocess.run(
                self.curl_command(*outputs, *arguments),
                input=content,
                stdin=subprocess.DEVNULL if content is None else None,
                check=False,
                capture_output=True,
                timeout=100,
            )
            assert done.returncode == 0, (done.returncode, done.stderr)
            content = body.read_bytes() if body.exists() else b""
            return parse_answer(head.read_bytes(), content)

    def is_logged(self, request_id: str) -> bool:
        """Whether nginx logged a request under this id."""
        return any(line.startswith(f"{request_id} ") for line in self.read_log())

    def read_log(self) -> list[str]:
        """Return nginx's access log: request id, status, target."""
        return (self.folder / "access.log").read_text().splitlines()

    def count_spilled(self) -> int:
        """How many uploads nginx has begun to keep in a file of its own."""
        return (self.folder / "error.log").read_text().count("is buffered to a temporary file")

    def stored(self) -> set[str]:
        """Every file of the store, stages included."""
        return {path.name for path in self.store.rglob("*") if path.is_file()}

    def call(self) -> socket.socket:
        """Open a connection to nginx, without TLS."""
        return socket.create_connection(self.address, 20, source_address=(CLIENT, 0))


def parse_answer(head: bytes, body: bytes) -> Answer:
    """Parse what curl dumped: the answer after those that were interim."""
    status_line, *lines = head.decode().strip().split("\r\n\r\n")[-1].split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(int(status_line.split(" ")[1]), headers, body)


@contextmanager
def running_site(variant: Variant, folder: Path, *flags: str) -> Iterator[Site]:
    """Run a service, and nginx before it; both end with the block."""
    store, proxy = folder / "files", folder / "nginx"
    store.mkdir()
    proxy.mkdir()
    with socket.socket() as kept:
        # Bound, not listening: nginx may join it, and nobody else takes the port meanwhile.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        address: tuple[str, int] = kept.getsockname()
        public = f"{variant.scheme}://127.0.0.1:{address[1]}{variant.path}"
        service = _start_service(folder, store, "--public-url", public, *flags)
        try:
            trust = _make_certificate(proxy) if variant.scheme == "https" else ()
            site = Site(variant, service, address, proxy, store, trust)
            with _running_nginx(site):
                yield site
        finally:
            service.end()


def _start_service(folder: Path, store: Path, *flags: str) -> ServiceProcess:
    database = f"sqlite:///{folder / 'catalogue.db'}"
    places = ("--dir", str(store), "--database-url", database)
    limits = ("--max-size", str(MAX_SIZE), "--grace-seconds", "1", "--metrics")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # away from any .env
        return running_service(*places, *limits, *flags)


def _make_certificate(folder: Path) -> tuple[str, ...]:
    """Make a certificate that vouches for itself; return what makes curl believe it."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        [
            *(find_program("openssl"), "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return "--cacert", str(certificate)


@contextmanager
def _running_nginx(site: Site) -> Iterator[None]:
    upstream = site.service.url.removeprefix("http://")
    listen = f"{site.address[0]}:{site.address[1]}"
    block = write_block(site.variant, site.folder, listen, upstream)
    # Root's nginx would have its workers be somebody who may not enter the test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config, error = site.folder / "nginx.conf", site.folder / "error.log"
    config.write_text(WRAPPER.format(user=user, folder=site.folder, block=block))
    command = [find_program("nginx"), "-e", str(error), "-c", str(config)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def is_up() -> bool:
        assert process.poll() is None, error.read_text()
        with suppress(ConnectionRefusedError), site.call():
            return True
        return False

    try:
        eventually(is_up, "nginx listens")
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)
