"""Bytes from a folder or an address that the user named: bounded in length and in time, and never code."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from bench.errors import BenchError, Fault
from bench.files import disk

PIECE = 1 << 18
SLOWEST = 1024
"""Bytes per second, below which a server counts as hanging."""
GONE = (404, 410)


class NotThere(BenchError):
    """The folder or the server has no such file."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows an address to another one of the web, never from https to http; to a file: nowhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            fp.close()
            raise BenchError(f"{req.full_url} leads to {newurl:.200}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """One that knows http and https alone: no files, no ftp, no data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def is_address(word: str) -> bool:
    """Whether a word names a server and no folder."""
    return word.lower().startswith(("http://", "https://"))


def folder_of(word: str) -> Path:
    """The folder that a word names, as a path or as file:///path.

    Raises:
        BenchError: another kind of address, or no folder.
    """
    parts = urlsplit(word)
    if "://" in word and (parts.scheme != "file" or parts.netloc not in ("", "localhost")):
        raise BenchError(f"{word:.200} is neither a folder nor an address of http, https or file:///")
    path = Path(urllib.request.url2pathname(parts.path)) if "://" in word else Path(word)
    if not path.is_dir():
        raise BenchError(f"{word:.200}: there is no such folder")
    return path


def pieces(where: str, name: str, *, limit: int, seconds: float) -> Iterator[bytes]:
    """The content of a file, in pieces.

    Args:
        where: a folder or an address. name: of the file below it, with slashes.
        limit: bytes; a longer file is refused, before it is read where its length is told. seconds: of silence, or of less than SLOWEST
            bytes of content a second, after which a server is given up.

    Raises:
        NotThere: there is no such file. BenchError: anything else that keeps it from being read whole.
    """
    if not is_address(where):
        yield from _from_disk(folder_of(where) / name, limit)
        return
    address = f"{where.rstrip('/')}/{quote(name)}"
    try:
        yield from _from_server(address, limit, seconds)
    except urllib.error.HTTPError as error:
        told = f"{address}: the server answers {error.code} {error.reason}"
        error.close()
        raise (NotThere if error.code in GONE else BenchError)(told) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        hung = isinstance(reason, TimeoutError)
        raise BenchError(f"{address}: {f'no answer for {seconds:g} seconds' if hung else f'{type(reason).__name__}: {reason}'}") from None


def _from_disk(path: Path, limit: int) -> Iterator[bytes]:
    try:
        with disk.opened(path, limit) as (handle, status):
            yield from disk.pieces(path, handle, status.st_size, PIECE)
    except Fault as fault:
        if disk.absent(fault):
            raise NotThere(f"{path}: there is no such file") from None
        raise


def _from_server(address: str, limit: int, seconds: float) -> Iterator[bytes]:
    with _opener().open(address, timeout=seconds) as answer:
        told = answer.headers.get("Content-Length")
        length = int(told) if told is not None and told.isdigit() else None
        if length is not None and length > limit:
            raise BenchError(f"{address} has {length:,} bytes, more than the {limit:,} that it may have")
        got = since = 0
        begun = time.monotonic()
        while piece := answer.read1(PIECE):
            got, since = got + len(piece), since + len(piece)
            if got > limit:
                raise BenchError(f"{address} goes on after the {limit:,} bytes that it may have")
            yield piece
            if (passed := time.monotonic() - begun) > seconds:
                if since < SLOWEST * passed:
                    raise TimeoutError
                begun, since = time.monotonic(), 0
        if length is not None and got < length:
            raise BenchError(f"{address} ended after {got:,} of {length:,} bytes")
