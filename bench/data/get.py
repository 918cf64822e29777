"""Downloads of the published files, with what torchvision knows of their addresses and check sums."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import torchvision
from torchvision.datasets.utils import download_url

from bench.datasets import DatasetInfo
from bench.errors import BenchError


def get(info: DatasetInfo, root: Path) -> None:
    """Puts the files of a data set below a folder; what is there and whole is not downloaded again.

    Raises:
        BenchError: it cannot be downloaded at all, or it could not be now.
    """
    source = info.source
    if source is None or source.torchvision is None:
        if source is not None and source.ships:
            raise BenchError(f"data set {info.name} ships with the package; there is nothing to get")
        hint = f": {source.by_hand}" if source is not None and source.by_hand else ""
        raise BenchError(f"data set {info.name} cannot be downloaded{hint}; --data-dir names the folder that you put it in")
    known = getattr(torchvision.datasets, source.torchvision)
    folder = root
    if hasattr(known, "tgz_md5"):
        wanted = [([known.url], known.filename, known.tgz_md5)]
    elif hasattr(known, "split_list"):
        wanted = [([url], name, md5) for url, name, md5 in (known.split_list[split] for split in ("train", "test"))]
    else:
        folder = root / source.torchvision / "raw"
        wanted = [([f"{mirror}{name}" for mirror in known.mirrors], name, md5) for name, md5 in known.resources]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{error.filename}: {error.strerror}") from None
    for addresses, name, md5 in wanted:
        _download(info, addresses, folder, name, md5)
        if name.endswith(".tar.gz"):
            _unpack(folder / name)


def _unpack(path: Path) -> None:
    """Unpacks an archive, which its MD5 has shown to be the published one, and removes it."""
    safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in Python 3.11.0 to 3.11.3
    try:
        with tarfile.open(path) as archive:
            archive.extractall(path.parent, **safe)
        path.unlink()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BenchError(f"{path} cannot be unpacked: {error}") from None


def _download(info: DatasetInfo, addresses: list[str], folder: Path, name: str, md5: str) -> None:
    """One file from the first address that gives it, checked against its MD5."""
    reason: Exception | None = None
    for address in addresses:
        try:
            download_url(address, str(folder), name, md5)
            return
        except (OSError, RuntimeError, ValueError) as error:
            reason = error
            if isinstance(error, HTTPError):
                error.close()
    said = str(getattr(reason, "reason", reason)).splitlines()[0]
    raise BenchError(f"data set {info.name} could not be downloaded from {addresses[-1]}: {said}") from None
