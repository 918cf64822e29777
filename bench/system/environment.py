"""What a run's numbers were made with: recorded beside it, in no key. No host, user or path."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.evidence.sources import compared
from bench.system.sources import code_sha256

LIBRARIES = ("certbench", "torch", "torchvision", "timm", "numpy", "scipy", "safetensors")


def describe(device: torch.device, sources: Mapping[str, Any], checksums: dict[str, str]) -> dict[str, Any]:
    """Library versions, the suite's git state, hashes of sources and data, device, threads, precision.

    Args:
        sources: what is recorded of the code from which the model comes, such as `method_sha256`.
    """
    return {
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "suite": _git(),
        **sources,
        **_engine(),
        "data_md5": checksums,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}{_processor()}",
        "capability": capability(device),
        "threads": torch.get_num_threads(),
        "precision": {"dtype": "float32", "tf32": "tf32" in _shortcuts(device), "bf16": "bf16" in _shortcuts(device)},
    }


def capability(device: torch.device) -> str:
    """The device's instructions, on which the last bits of float32 depend: a CPU's vector instructions, CUDA's compute capability."""
    if device.type == "cuda":
        return ".".join(map(str, torch.cuda.get_device_capability(device)))
    return torch.backends.cpu.get_cpu_capability()


@cache
def _processor() -> str:
    """The model of the processor, as far as the system tells: on it, too, depend the last bits of float32."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]  # the first core
        fields = dict(re.findall(r"^(.+?)\s*: (.*)$", text, re.MULTILINE))
        words = [fields.get("model name", "")]
        words += [f"{name} {fields[name]}" for name in ("cpu family", "model", "CPU implementer", "CPU part") if name in fields]
        return "".join(f", {word}" for word in words if word)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        words = ["sysctl", "-n", "machdep.cpu.brand_string"]  # macOS
        return ", " + subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    return ""


@cache
def _engine() -> dict[str, str]:
    """Hashes over the engine's own part of the mathematics: attacks, smoothing, models, training, certification."""
    folder = Path(__file__).parents[1]
    modules = ("attacks", "smoothing", "train/loop", "train/graph", "distributed/group", "distributed/shares")
    packages = (path for name in ("certify", "models") for path in sorted((folder / name).rglob("*.py")))
    files = [*(folder / f"{name}.py" for name in modules), *packages]
    text = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return {"engine_sha256": text, "engine_code_sha256": code_sha256(files)}


def with_history(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """The new description, with the earlier ones that differ from it as `history`."""
    history = list((before or {}).get("history", []))
    earlier = {name: value for name, value in (before or {}).items() if name != "history"}
    if earlier and compared(earlier) != compared(now):
        history.append(earlier)
    return now | ({"history": history} if history else {})


def with_entries(before: dict[str, Any] | None, entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """A description that tells of these entries, too, each once: in its history; of no description yet, the last entry is the new one."""
    history = list((before or {}).get("history", []))
    history += [entry for place, entry in enumerate(entries) if entry not in [*history, *entries[:place]]]
    before = before or (history.pop() if history else None)
    return before | {"history": history} if before and history else before


def float32_products(kind: str) -> list[Any]:
    """Where torch keeps whether float32 products may be computed in less, for a device type."""
    backends: Any = torch.backends
    if kind == "cuda":
        return [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    return [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]


def _shortcuts(device: torch.device) -> set[str]:
    return {setting.fp32_precision for setting in float32_products(device.type)}


def precisions() -> list[str]:
    """How float32 products are computed on every device type: none (as torch likes), ieee, tf32 or bf16."""
    return [setting.fp32_precision for setting in _all_products()]


def set_precisions(words: Sequence[str]) -> None:
    """The inverse of `precisions`."""
    for setting, word in zip(_all_products(), words, strict=True):
        setting.fp32_precision = word


def _all_products() -> list[Any]:
    return [*float32_products("cuda"), *float32_products("cpu")]


@contextlib.contextmanager
def plain_float32() -> Iterator[None]:
    """Inside, float32 products are computed in float32: no TF32 (torch's default for convolutions on CUDA), no bfloat16."""
    before = precisions()
    try:
        set_precisions(["ieee"] * len(before))
        yield
    finally:
        set_precisions(before)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _git() -> dict[str, Any]:
    """Commit and dirty flag of the suite's checkout as this process first saw it; both None in an installed copy."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", "*.py").strip())}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
