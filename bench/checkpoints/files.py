"""Weight files from outside: read as tensors and plain values, never as code.

Sources of the formats: `torch.save` and safetensors. The field's checkpoints are a dict that holds a dict of tensors under `state_dict`,
`net`, `model` or another name, or such a dict alone.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bench.errors import BenchError, clipped
from bench.spec import RunSpec, canonical, from_json, parse_json

MAX_FILE = 4 << 30  # bytes; ResNet-50 with its optimiser takes 0.2 GB


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        path: where it was read, for messages.
        tensors: name -> dense tensor on the CPU, as named in the file.
        key: under which the file has them; empty where they stand alone.
        arch: the architecture that the file names.
        spec: the training that the file is of, if the suite wrote it.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    key: str = ""
    arch: str | None = None
    spec: RunSpec | None = None


def read(path: Path) -> WeightsFile:
    """The tensors of a file and what it says of their architecture.

    Raises:
        BenchError: no regular file, too large, damaged, of another format, or without one dict of tensors.
    """
    try:
        if not path.is_file():  # a pipe would block
            raise BenchError(f"{path} is not a regular file")
        if (size := path.stat().st_size) > MAX_FILE:
            raise BenchError(f"{path} has {size / 2**30:.1f} GiB, more than the {MAX_FILE >> 30} that are read")
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None
    return _from_safetensors(path) if start[8:] == b"{" else _from_torch(path)


def _from_torch(path: Path) -> WeightsFile:
    try:
        if zipfile.is_zipfile(path) and (wrong := zipfile.ZipFile(path).testzip()):  # torch.load does not compare them
            raise ValueError(f"the check sum of its record {wrong} does not fit")
        with warnings.catch_warnings(action="ignore"):  # of tensors that are refused in a moment
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the damage makes of the file: the list of possible types has no end
        # torch's own text advises to load the file as code, so only the words after it are passed on.
        said = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())
        if found := re.search(r"GLOBAL ([\w.]+)", said):
            raise BenchError(
                f"{path} asks for {found[1]}, and only tensors and plain values are loaded, never code; "
                "where you trust it, load it yourself and save {'arch': ..., 'state_dict': ...} anew"
            ) from None
        told = f"{type(error).__name__}: {'not tensors and plain values' if 'weights_only' in said else said}"
        raise BenchError(clipped(f"{path} is damaged, or neither a file of torch.save nor safetensors ({told:.200})")) from None
    if not isinstance(content, dict):
        raise BenchError(f"{path} holds an object of type {type(content).__name__}, not a dict of tensors")
    key, tensors = _dict_of_tensors(path, content)
    arch = content.get("arch") if key else None
    return WeightsFile(path=path, tensors=_checked(path, tensors), key=key, arch=arch if isinstance(arch, str) else None)


def _dict_of_tensors(path: Path, content: dict[Any, Any]) -> tuple[str, dict[Any, Any]]:
    """The one dict of tensors of a file, and under which key it stands."""
    inner = {str(key): value for key, value in content.items() if isinstance(value, dict) and any(map(torch.is_tensor, value.values()))}
    if "state_dict" in inner:
        return "state_dict", inner["state_dict"]
    if len(inner) == 1:
        return next(iter(inner.items()))
    keys = ", ".join(repr(key)[:20] for key in list(inner or content)[:8])
    if inner:
        raise BenchError(f"{path} holds several dicts of tensors ({keys}); save the one that you mean as {{'state_dict': ...}}")
    if any(map(torch.is_tensor, content.values())):
        return "", content
    raise BenchError(f"{path} has no tensors under its keys ({keys}); save the weights as {{'arch': ..., 'state_dict': ...}}")


def _from_safetensors(path: Path) -> WeightsFile:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("certbench")
        tensors = safetensors.torch.load_file(path)
        found = None if stated is None else canonical(parse_json(stated)["spec"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BenchError(clipped(f"{path} is damaged, or no safetensors file ({type(error).__name__}: {error!s:.200})")) from None
    spec = from_json(RunSpec, found, str(path)) if found is not None else None
    return WeightsFile(path=path, tensors=_checked(path, tensors), arch=spec.train.arch if spec else None, spec=spec)


def _checked(path: Path, tensors: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors, or BenchError for what is none, or not dense."""
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise BenchError(f"{path}: one of its tensors is named {name!r:.80}, which is no text")
        if not torch.is_tensor(tensor):
            raise BenchError(f"{path}: {name!r:.80} is of type {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise BenchError(f"{path}: tensor {name!r:.80} is sparse, quantised or without memory; only dense tensors are read")
    return {name: tensor.detach() for name, tensor in tensors.items()}
