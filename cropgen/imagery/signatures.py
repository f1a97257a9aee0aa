"""Shared access signatures: what the Planetary Computer wants behind the addresses of its blobs.

A token is given out to everyone, per collection, and expires within the hour; it is asked for again shortly before.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests

from cropgen.core.errors import UnfinishedError

_MARGIN = 120.0
_guard = threading.Lock()


@dataclass(frozen=True)
class _Token:
    query: str
    expires: float


_tokens: dict[str, _Token] = {}


def signed(address: str, tokens: str | None, timeout: float = 30.0) -> str:
    """An address with its signature; itself where there are no tokens, or it carries one.

    Arguments:
        tokens: address that gives out tokens as `{"token": …, "msft:expiry": …}`.

    Raises:
        UnfinishedError: no token was given.
    """
    if tokens is None or "?" in address:
        return address
    with _guard:
        token = _tokens.get(tokens)
        if token is None or token.expires - time.time() < _MARGIN:
            token = _tokens[tokens] = _ask(tokens, timeout)
    return f"{address}?{token.query}"


def _ask(tokens: str, timeout: float) -> _Token:
    try:
        response = requests.get(tokens, timeout=timeout)
        response.raise_for_status()
        document: dict[str, Any] = response.json()
        expires = datetime.fromisoformat(document["msft:expiry"].replace("Z", "+00:00")).timestamp()
        return _Token(document["token"], expires)
    except (requests.exceptions.RequestException, KeyError, ValueError) as error:
        detail = str(error).splitlines()[0]
        raise UnfinishedError(f"no access token from {tokens}: {detail}", hint="try again later") from error
