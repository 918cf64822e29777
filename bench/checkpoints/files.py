"""Weight files from outside: read as tensors and plain values, never as code.

Sources of the formats: `torch.save` (a zip archive since PyTorch 1.6, a row of pickles before) and safetensors. The field's
checkpoints are a dict of `epoch`, `arch`, `state_dict` and `optimizer`.
"""

from __future__ import annotations

import io
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
from torch import Tensor, nn

from bench.errors import BenchError
from bench.spec import RunSpec, canonical, from_json, parse_json

MAX_FILE = 4 << 30  # bytes; ResNet-50 with its optimiser takes 0.2 GB
MAX_PICKLE = 64 << 20  # bytes of names and plain values in a zip archive; ResNet-110 takes 0.1 MB
MAX_TENSORS = 100_000
MAX_NAME = 200  # characters

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before version 1.6
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        path: where it was read, for messages.
        tensors: name -> tensor, as named in the file; strided, on the CPU, every element with memory of its own.
        arch: the architecture that the file names.
        spec: the training that the file is of, if the suite wrote it.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    arch: str | None = None
    spec: RunSpec | None = None


def read(path: Path) -> WeightsFile:
    """The tensors of a file and what it says of their architecture.

    Raises:
        BenchError: no regular file, too large, damaged, of another format, or with anything but tensors where tensors belong.
    """
    data = _bytes(path)
    if data.startswith((_ZIP, _LEGACY)):
        if data.startswith(_ZIP):
            _check_zip(path, data)
        return _from_content(path, _torch_load(path, data))
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return _from_safetensors(path, data)
    for magic, name in _PACKED.items():
        if data.startswith(magic):
            raise BenchError(f"{path} is packed with {name}; unpack it first")
    if data[257:262] == b"ustar":
        raise BenchError(f"{path} is a tar archive of other files (a .pth.tar of torch.save is none); unpack it first")
    raise BenchError(f"{path} is neither a file of torch.save nor safetensors: it begins with {data[:12]!r}")


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe would block
            raise BenchError(f"{path} is not a regular file")
        size = path.stat().st_size
        if size > MAX_FILE:
            raise BenchError(f"{path} has {size / 2**30:.1f} GiB, more than the {MAX_FILE >> 30} that are read")
        data = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None
    if not data:
        raise BenchError(f"{path} is empty")
    return data


def _check_zip(path: Path, data: bytes) -> None:
    """torch.save stores its records as they are; whatever would grow when it is unpacked is refused. Check sums are compared."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        records = archive.infolist()
    except Exception as error:
        raise BenchError(f"{path} is damaged or cut short ({type(error).__name__}: {error})") from None
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise BenchError(f"{path} has compressed records, which torch.save does not write; unpack it if it is an archive of other files")
    if sum(record.file_size for record in records) > len(data):
        raise BenchError(f"{path} has records that overlap: together they are larger than the file")
    _check_sums(path, archive)
    names = {record.filename.rpartition("/")[2] for record in records}
    if "constants.pkl" in names:
        raise BenchError(f"{path} is a TorchScript archive, which is code; save the state_dict of its module instead")
    if "data.pkl" not in names:
        raise BenchError(f"{path} is a zip archive, but not one of torch.save: it has no data.pkl")
    if any(record.filename.endswith(".pkl") and record.file_size > MAX_PICKLE for record in records):
        raise BenchError(f"{path} has more than {MAX_PICKLE >> 20} MiB of names and plain values, which is no checkpoint")


def _check_sums(path: Path, archive: zipfile.ZipFile) -> None:
    """torch.load reads weights without comparing them with the check sums that stand beside them."""
    try:
        wrong = archive.testzip()
    except Exception as error:
        raise BenchError(f"{path} is damaged or cut short ({type(error).__name__}: {error})") from None
    if wrong is not None:
        raise BenchError(f"{path} is damaged: the check sum of its record {wrong[:80]!r} does not fit")


def _torch_load(path: Path, data: bytes) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # of tensors that are refused in a moment
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the damage makes of the file: the list of possible types has no end
        # torch's own text advises to load the file as code, so only the words after it are passed on.
        said = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())
        if found := re.search(r"GLOBAL ([\w.]+)", said):
            raise BenchError(
                f"{path} asks for {found[1]}, and only tensors and plain values are loaded, never code; "
                "where you trust it, load it yourself and save {'arch': ..., 'state_dict': ...} anew"
            ) from None
        said = "not tensors and plain values" if "weights_only" in said else said[:160]
        raise BenchError(f"{path} is damaged or not a file of torch.save ({type(error).__name__}: {said})") from None


def _from_content(path: Path, content: Any) -> WeightsFile:
    if not isinstance(content, dict):
        raise BenchError(f"{path} holds an object of type {type(content).__name__}, not a dict with a state_dict")
    arch = None
    if "state_dict" in content:
        arch, content = content.get("arch"), content["state_dict"]
        if not isinstance(content, dict):
            raise BenchError(f"{path}: its state_dict is an object of type {type(content).__name__}, not a dict of tensors")
        if arch is not None and not (isinstance(arch, str) and arch.isprintable() and 0 < len(arch) <= MAX_NAME):
            raise BenchError(f"{path}: its arch is not a name; say the right one with --arch")
    elif content and not any(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(str(key)[:20] for key in list(content)[:8] if isinstance(key, (str, int)))
        raise BenchError(f"{path} has no state_dict among its keys ({keys}); save the weights as {{'arch': ..., 'state_dict': ...}}")
    return WeightsFile(path=path, tensors=_checked(path, content), arch=arch)


def _from_safetensors(path: Path, data: bytes) -> WeightsFile:
    try:
        tensors = safetensors.torch.load(data)
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        stated = header.get("__metadata__", {}).get("certbench")
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BenchError(f"{path} is damaged or no safetensors file ({type(error).__name__}: {str(error)[:160]})") from None
    spec = None
    if stated is not None:
        try:
            found = parse_json(stated)["spec"]
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{path}: its metadata are not those of a run ({type(error).__name__}: {str(error)[:160]})") from None
        spec = from_json(RunSpec, canonical(found), str(path))
    return WeightsFile(path=path, tensors=_checked(path, tensors), arch=spec.train.arch if spec else None, spec=spec)


def _checked(path: Path, tensors: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors as plain ones, or BenchError for what is none, or claims more elements than it has memory for."""
    if not tensors:
        raise BenchError(f"{path} holds no tensors")
    if len(tensors) > MAX_TENSORS:
        raise BenchError(f"{path} names {len(tensors)} tensors, more than the {MAX_TENSORS} that are read")
    result = {}
    for name, tensor in tensors.items():
        if not (isinstance(name, str) and name.isprintable() and len(name) <= MAX_NAME):
            raise BenchError(f"{path}: one of its tensors has no proper name")
        if type(tensor) not in (Tensor, nn.Parameter):
            raise BenchError(f"{path}: {name!r} is of type {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise BenchError(f"{path}: tensor {name!r} is sparse, quantised or without memory; only dense tensors are read")
        if not _owns_its_elements(tensor):
            raise BenchError(
                f"{path}: tensor {name!r} claims {tensor.numel()} elements but repeats its memory (stride {tuple(tensor.stride())}); "
                "save a contiguous copy of it"
            )
        result[name] = tensor.detach()
    total = sum(tensor.numel() * tensor.element_size() for tensor in result.values())
    if total > MAX_FILE:
        raise BenchError(f"{path}: its tensors take {total / 2**30:.1f} GiB in memory, more than the {MAX_FILE >> 30} that are read")
    return result


def _owns_its_elements(tensor: Tensor) -> bool:
    """Whether no two elements share memory: from the innermost dimension outwards, each stride passes all that lies within."""
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < extent:
                return False
            extent += (size - 1) * stride
    return True
