"""Which addresses are fetched from: https, or this very machine; plain http to elsewhere only on request."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from cropgen.core.errors import UsageError


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_safe(url: str, *, insecure: bool = False) -> bool:
    """Whether an address may be fetched from: nobody between can change what comes, or `insecure` allows http."""
    scheme = urlsplit(url).scheme
    return scheme == "https" or (scheme == "http" and (insecure or is_loopback(url)))


def require_safe(url: str, where: str, *, insecure: bool = False) -> None:
    """Refuse plain http to another machine.

    Raises:
        UsageError: the address is not safe.
    """
    if not is_safe(url, insecure=insecure):
        raise UsageError(
            f"{where}: {url} is not https",
            hint="use https; inside an institute, --insecure-mirror allows http for manifests of your own",
        )
