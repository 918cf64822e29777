"""What a run's numbers were made with: recorded beside it, in no key. No host, user or path."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("certbench", "torch", "torchvision", "timm", "numpy", "scipy", "safetensors")


def describe(device: torch.device, source_sha256: str, checksums: dict[str, str]) -> dict[str, Any]:
    """Library versions, the suite's git state, hashes of method source and data, device, threads, precision."""
    return {
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "suite": _git(),
        "method_sha256": source_sha256,
        "engine_sha256": _engine_sha256(),
        "data_md5": checksums,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}",
        "threads": torch.get_num_threads(),
        "precision": {"dtype": "float32", "tf32": _tf32()},
    }


@cache
def _engine_sha256() -> str:
    """One hash over the engine's own part of the mathematics: attacks, smoothing, models, training, certification."""
    folder = Path(__file__).parent
    files = [*(folder / f"{name}.py" for name in ("attacks", "smoothing", "train", "certify")), *sorted((folder / "models").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def mixture(before: dict[str, Any], now: dict[str, Any], what: Sequence[str]) -> list[str]:
    """The fields among `what` that differ between two descriptions; one that an older release did not record cannot differ."""
    return [name for name in what if name in before and before[name] != now.get(name)]


def with_history(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """The new description, with the earlier ones that differ from it as `history`."""
    history = list((before or {}).get("history", []))
    earlier = {name: value for name, value in (before or {}).items() if name != "history"}
    if earlier and earlier != now:
        history.append(earlier)
    return now | ({"history": history} if history else {})


def _tf32() -> bool:
    return torch.cuda.is_available() and torch.backends.cuda.matmul.allow_tf32


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _git() -> dict[str, Any]:
    """Commit and dirty flag of the suite's checkout as this process first saw it; both None in an installed copy."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", "*.py").strip())}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
