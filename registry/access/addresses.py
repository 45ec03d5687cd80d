"""Which addresses a webhook may have: the public internet, unless a private one was allowed for it, or a
Prefect block."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from registry.errors import InvalidWebhook

BLOCK = "prefect:"
"""How an address begins that is a block of Prefect's: `prefect:TYPE/NAME`, for e-mail with `?to=ADDRESS`."""
_REMEDY = "add it with --allow-private if it is yours"
_NAMED = re.compile(r"[a-z0-9-]+/[a-z0-9-]+(\?to=[^&#]+(&from=[^&#]+)?)?")  # as Prefect names its blocks


def check_url(url: str, private: bool) -> None:
    """Raise InvalidWebhook unless `url` is one that may be asked; a name is looked up at each delivery."""
    if len(url) > 2000 or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidWebhook("a webhook's address has up to 2,000 printable characters of ASCII, no spaces")
    if url.startswith(BLOCK):
        if _NAMED.fullmatch(url.removeprefix(BLOCK)) is None:
            raise InvalidWebhook(f"{url[:80]}: expected {BLOCK}TYPE/NAME, as `prefect block ls` names it")
        return
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidWebhook(f"{url[:80]}: is not a valid address: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidWebhook(f"{url[:80]}: expected an address such as https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise InvalidWebhook(
            "a webhook's address must not hold a user or a password, since everyone sees it; leave them out"
        )
    if parts.fragment:
        raise InvalidWebhook(f"{url[:80]}: a fragment (#…) is never sent; leave it out")
    if not private and (host == "localhost" or host.endswith(".localhost") or not _public_literal(host)):
        raise InvalidWebhook(f"{url[:80]}: an address of this machine or its network; {_REMEDY}")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: none of this machine or its networks."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        for embedded in (ip.ipv4_mapped, ip.sixtofour, ip.teredo[1] if ip.teredo else None):
            if embedded is not None:
                return is_public(str(embedded))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _public_literal(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:
        return True  # a name; it is looked up when something is delivered
