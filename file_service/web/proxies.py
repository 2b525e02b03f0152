"""Who really asks: addresses that reverse proxies pass on, believed from listed proxies alone."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from aiohttp import web

from file_service.web.keys import PUBLIC

Network = IPv4Network | IPv6Network

_FOR = re.compile(r'for=(?:"?\[([^\]"]+)\](?::\d+)?"?|"?([^";,\[\]:]+)(?::\d+)?"?)', re.IGNORECASE)


def find_client(request: web.Request) -> str | None:
    """Return the address of the client: the nearest one that is no trusted proxy."""
    client = request.remote
    proxies = request.app[PUBLIC].proxies
    if not proxies:
        return client
    for address in reversed(_forwarded(request)):
        if not _is_within(client, proxies):
            break
        client = address
    return client


def _forwarded(request: web.Request) -> list[str]:
    """Return the addresses that were passed on, the nearest last (RFC 7239, or of old)."""
    standard = ",".join(request.headers.getall("Forwarded", ()))
    if standard:
        return [match[1] or match[2] for match in _FOR.finditer(standard)]
    old = ",".join(request.headers.getall("X-Forwarded-For", ()))
    return [address.strip() for address in old.split(",") if _is_address(address.strip())]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_within(address: str | None, networks: Sequence[Network]) -> bool:
    if address is None or not _is_address(address):
        return False
    parsed = ip_address(address)
    return any(parsed in network for network in networks)
