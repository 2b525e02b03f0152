"""Who really asks: addresses that reverse proxies pass on, believed from listed proxies alone."""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import web

from file_service.web.headers import combine
from file_service.web.keys import PUBLIC

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# Longer than any chain of proxies writes; beyond it, nothing is believed.
_LONGEST = 2048

_PORT = r"(?::[0-9]{1,5})?"
_NODE = re.compile(rf"\[([0-9A-Fa-f:.]+)\]{_PORT}|([0-9.]+){_PORT}|([0-9A-Fa-f:.]+)")

# RFC 7239 §4: a list of pairs, whose values may be quoted.
_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*")+')
_PAIR = re.compile(r'[ \t]*([A-Za-z]+)=(?:([^";, \t]*)|"((?:[^"\\]|\\.)*)")[ \t]*(?:;|$)')


def find_client(request: web.Request) -> str | None:
    """Return the address of the client: the nearest one that is no trusted proxy.

    What a proxy says that cannot be read ends the search: what is behind it, anybody may have sent.
    """
    public = request.app[PUBLIC]
    client = parse_address(request.remote or "")
    if client is None or not _is_within(client, public.proxies):
        return request.remote
    for address in _forwarded(combine(request.headers, public.forwarded_header) or ""):
        if address is None:
            break
        client = address
        if not _is_within(client, public.proxies):
            break
    return str(client)


def _forwarded(value: str) -> Iterator[Address | None]:
    """Yield the addresses that were passed on, the nearest first; None for what is no address."""
    if not value or len(value) > _LONGEST:
        return
    if "=" not in value:
        yield from (parse_address(each) for each in reversed(value.split(",")))
    else:
        yield from (_parse_element(each) for each in reversed(_ELEMENT.findall(value)))


def _parse_element(text: str) -> Address | None:
    """Return the address after `for=` in one element of Forwarded."""
    found, position = None, 0
    while position < len(text):
        pair = _PAIR.match(text, position)
        if pair is None:
            return None
        if pair[1].lower() == "for":
            found = parse_address(pair[2] or pair[3] or "")
        position = pair.end()
    return found


def parse_address(text: str) -> Address | None:
    """Return an address that may have a port; None for a name, `unknown` and the like."""
    match = _NODE.fullmatch(text.strip(" \t"))
    if match is None:
        return None
    try:
        address = ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address  # on a socket for both, IPv4 looks like IPv6


def _is_within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
