"""Rasters behind addresses: `https://`, `s3://` and paths, their versions and windows.

Windows are read by GDAL, which asks for the byte ranges of the blocks that a window touches and nothing else, and for
neighbouring ranges at once. What knows the version of a file is asked for its first byte (https) or its head (s3).

    https    as it is; credentials of ~/.netrc; the bearer token of CROPGEN_STAC_TOKEN for the catalogue's own host;
             a shared access signature appended where the catalogue gives one out
    s3       credentials where the tools of Amazon find them (environment, ~/.aws, roles); none found: unsigned

An attempt that fails by 408, 429, 5xx or a broken connection is repeated with growing pauses. Nothing is cached between
attempts, so that half an answer is never taken for a whole one.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import rasterio
import requests
from rasterio.session import AWSSession

from cropgen.core.errors import (
    CropgenError,
    MissingDependencyError,
    MissingInputError,
    UnfinishedError,
    innermost_reason,
)
from cropgen.imagery.raster import GDAL_ERRORS
from cropgen.imagery.signatures import signed

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

TOKEN = "CROPGEN_STAC_TOKEN"
_LONGEST_WAIT = 60.0
_CHUNK = 1 << 20
_HTTP_CODE = re.compile(r"HTTP (?:response|error) code\s*:?\s*(\d{3})")
_AGENT = "cropgen (+https://github.com/cropgen/cropgen)"
_Result = TypeVar("_Result")
_local = threading.local()


class Again(Exception):
    """Worth another attempt."""


@dataclass(frozen=True)
class Access:
    """How addresses are reached.

    Arguments:
        retries: further attempts after a failure.
        timeout: seconds of silence after which a connection counts as dropped.
        backoff: seconds before the second attempt; doubled with each.
        endpoint: of s3 addresses, such as `https://eodata.dataspace.copernicus.eu`; None: Amazon's.
        tokens: address that gives out shared access signatures, None where addresses need none.
        own_host: host of the catalogue, the only one that sees the bearer token.
    """

    retries: int = 5
    timeout: float = 30.0
    backoff: float = 1.0
    endpoint: str | None = None
    tokens: str | None = None
    own_host: str | None = None

    def headers(self, address: str) -> dict[str, str]:
        """What is sent with a request to an address."""
        token = os.environ.get(TOKEN)
        return {"Authorization": f"Bearer {token}"} if token and urlsplit(address).netloc == self.own_host else {}


@dataclass(frozen=True)
class Version:
    """Which version of a file an address holds: an entity tag or a date, and its bytes where they are stated."""

    tag: str
    size: int | None


def version_of(address: str, access: Access) -> Version:
    """Ask which version an address holds.

    Raises:
        MissingInputError: there is nothing.
        CropgenError: the server refuses.
        Again: it may go better next time.
    """
    scheme = urlsplit(address).scheme
    if scheme == "s3":
        return _s3_version(address, access)
    if scheme in ("http", "https"):
        return _http_version(address, access)
    path = Path(address.removeprefix("file://"))
    if not path.is_file():
        raise MissingInputError(f"{path} is not there", hint="the catalogue names a file that is not there")
    state = path.stat()
    return Version(str(state.st_mtime_ns), state.st_size)


def open_raster(address: str, access: Access, work: Callable[[DatasetReader], _Result]) -> _Result:
    """Open a raster and do something with it, once.

    Raises:
        MissingInputError, CropgenError, Again: as `version_of`; `Again` too for values that cannot be decoded.
    """
    try:
        with rasterio.Env(**_environment(address, access)), rasterio.open(_gdal_name(address, access)) as raster:
            return work(raster)
    except GDAL_ERRORS as error:
        raise _judged(address, error) from error


def download(address: str, access: Access, stream: BinaryIO, stop: threading.Event) -> None:
    """Copy a whole file into a stream, once.

    Raises:
        MissingInputError, CropgenError, Again: as `version_of`.
        UnfinishedError: `stop` was set.
        OSError: the stream cannot be written.
    """
    for chunk in _chunks(address, access):
        if stop.is_set():
            raise UnfinishedError("stopped", hint="the same command goes on")
        stream.write(chunk)


def _chunks(address: str, access: Access) -> Iterator[bytes]:
    scheme = urlsplit(address).scheme
    if scheme == "s3":
        yield from _s3_chunks(address, access)
    elif scheme in ("http", "https"):
        yield from _http_chunks(address, access)
    else:
        path = Path(address.removeprefix("file://"))
        if not path.is_file():
            raise MissingInputError(f"{path} is not there", hint="the catalogue names a file that is not there")
        with path.open("rb") as source:
            yield from iter(lambda: source.read(_CHUNK), b"")


def _http_chunks(address: str, access: Access) -> Iterator[bytes]:
    target = signed(address, access.tokens, access.timeout)
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **access.headers(address)}
    try:
        with _session().get(target, headers=headers, stream=True, timeout=access.timeout) as response:
            require_success(response.status_code, response.reason, address)
            yield from response.iter_content(_CHUNK)
    except requests.exceptions.RequestException as error:
        raise Again(f"{address_host(address)}: connection failed: {innermost_reason(error)}") from error


def _s3_chunks(address: str, access: Access) -> Iterator[bytes]:
    parts = urlsplit(address)
    with _s3_errors(address):
        client = _s3_client(access.endpoint, access.timeout)
        body = client.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"]
        yield from body.iter_chunks(_CHUNK)


@contextmanager
def _s3_errors(address: str) -> Iterator[None]:
    """What object storage refuses is told as a refusal over HTTP is; all else may pass and is tried `Again`."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        stated = error.response.get("ResponseMetadata", {})
        require_success(int(stated.get("HTTPStatusCode", 500)), error.response["Error"].get("Message", ""), address)
        raise Again(f"{address}: {error}") from error
    except BotoCoreError as error:
        raise Again(f"{address}: {error}") from error


def patiently(work: Callable[[], _Result], access: Access, stop: threading.Event | None = None) -> _Result:
    """Do something, again after each `Again`, until it succeeds or the attempts are used up.

    Raises:
        UnfinishedError: they are, or `stop` was set.
    """
    pause = stop or threading.Event()
    last = ""
    for attempt in range(access.retries + 1):
        try:
            return work()
        except Again as error:
            last = str(error)
        if attempt < access.retries and pause.wait(min(access.backoff * 2**attempt, _LONGEST_WAIT)):
            break
    raise UnfinishedError(last, hint="what came is kept; the same command goes on from there")


def address_host(address: str) -> str:
    """The server of an address, for messages."""
    return urlsplit(address).netloc or "this machine"


def _http_version(address: str, access: Access) -> Version:
    target = signed(address, access.tokens, access.timeout)
    headers = {"Range": "bytes=0-0", "User-Agent": _AGENT, **access.headers(address)}
    try:
        with _session().get(target, headers=headers, stream=True, timeout=access.timeout) as response:
            require_success(response.status_code, response.reason, address)
            stated = response.headers
            size = stated.get("Content-Range", "").rpartition("/")[2] or stated.get("Content-Length", "")
            if response.status_code == 206:
                response.content  # noqa: B018 - one byte, read so that the connection can serve again
            tag = stated.get("ETag") or stated.get("Last-Modified") or ""
            return Version(tag.strip('"'), int(size) if size.isdigit() else None)
    except requests.exceptions.RequestException as error:
        raise Again(f"{address_host(address)}: connection failed: {innermost_reason(error)}") from error


def require_success(status: int, reason: str, address: str) -> None:
    """Judge the answer of a server.

    Raises:
        MissingInputError, CropgenError, Again: by status.
    """
    if status in (408, 429) or status >= 500:
        raise Again(f"{address}: the server answers {status} {reason}".rstrip())
    if status in (404, 410):
        raise MissingInputError(
            f"{address}: the server answers {status} {reason}".rstrip(),
            hint="the catalogue names a file that is not there; search again, or use another --catalog",
        )
    if status in (401, 403):
        raise CropgenError(
            f"{address}: the server answers {status} {reason}".rstrip(),
            hint=f"it wants credentials: s3 keys, ~/.netrc or {TOKEN}; see docs/scenes.md",
        )
    if status >= 400:
        raise CropgenError(f"{address}: the server answers {status} {reason}", hint="use another --catalog")


def _judged(address: str, error: Exception) -> Exception:
    """What a failure of GDAL means."""
    said, cause = [], error
    while cause is not None and len(said) < 5:
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    found = next((code for text in said for code in _HTTP_CODE.findall(text)), None)
    if found is not None:
        try:
            require_success(int(found), "", address)
        except (Again, CropgenError) as judged:
            return judged
    if urlsplit(address).scheme in ("http", "https", "s3") or any("No such file" not in text for text in said):
        return Again(f"{address} cannot be read: {said[-1].splitlines()[0] if said[-1] else error}")
    return MissingInputError(f"{address} is not there", hint="the catalogue names a file that is not there")


def _gdal_name(address: str, access: Access) -> str:
    parts = urlsplit(address)
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    if parts.scheme in ("http", "https"):
        return f"/vsicurl/{signed(address, access.tokens, access.timeout)}"
    return address.removeprefix("file://")


def _environment(address: str, access: Access) -> dict[str, Any]:
    options: dict[str, Any] = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_LOG_ERRORS": "OFF", "GDAL_HTTP_MAX_RETRY": "0",
        "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",
        "GDAL_HTTP_CONNECTTIMEOUT": str(max(round(access.timeout), 1)), "GDAL_HTTP_LOW_SPEED_LIMIT": "1024",
        "GDAL_HTTP_LOW_SPEED_TIME": str(max(round(access.timeout), 1)), "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
        "GDAL_HTTP_USERAGENT": _AGENT,
    }  # fmt: skip
    if headers := access.headers(address):
        options["GDAL_HTTP_HEADERS"] = ",".join(f"{name}: {value}" for name, value in headers.items())
    if urlsplit(address).scheme == "s3":
        options |= _s3_options(access)
    return options


def _s3_options(access: Access) -> dict[str, Any]:
    session = _aws_session()
    unsigned = session.get_credentials() is None
    options: dict[str, Any] = {"session": AWSSession(session, aws_unsigned=unsigned)}
    if access.endpoint is not None:
        parts = urlsplit(access.endpoint)
        options |= {
            "AWS_S3_ENDPOINT": parts.netloc, "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }  # fmt: skip
    return options


def _s3_version(address: str, access: Access) -> Version:
    parts = urlsplit(address)
    with _s3_errors(address):
        head = _s3_client(access.endpoint, access.timeout).head_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))
    return Version(head["ETag"].strip('"'), head["ContentLength"])


@functools.cache
def _aws_session() -> Any:
    try:
        import boto3
    except ImportError as error:
        raise MissingDependencyError(
            "s3:// addresses need boto3, which is not installed", hint="pip install 'cropgen[stac]'"
        ) from error
    return boto3.Session()


@functools.cache
def _s3_client(endpoint: str | None, timeout: float) -> Any:
    session = _aws_session()
    from botocore import UNSIGNED
    from botocore.config import Config

    unsigned = {"signature_version": UNSIGNED} if session.get_credentials() is None else {}
    config = Config(
        connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1},
        s3={"addressing_style": "path" if endpoint else "auto"}, **unsigned,
    )  # fmt: skip
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint, config=config, region_name=region)


def _session() -> requests.Session:
    """The session of this thread."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
    return _local.session
