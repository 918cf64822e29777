"""The records beside evidence, each read and checked: what it says, or a `Fault`. None: there is no such record."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import BenchError, Fault, as_fault
from bench.files import disk
from bench.files.writing import read_json_if_there
from bench.spec import RunSpec, canonical, describe_type, parse_json, to_json

T = TypeVar("T")
SHA256 = re.compile(r"[0-9a-f]{64}")
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
BYTES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}
"""Of one number of each type of the safetensors format."""
MAX_HEADER = 16 << 20
"""Bytes of the header of a weights file: 200 for each tensor."""


def attempt(faults: list[Fault], file: Path, read: Callable[[], T]) -> T | None:
    """What `read` returns; None where it raises, which is added to the faults, of that file."""
    try:
        return read()
    except BenchError as error:
        faults.append(as_fault(error, file))
    return None


def record(path: Path, fields: dict[str, type], maybe: Mapping[str, type] | None = None) -> dict[str, Any] | None:
    """A record with these fields, and those of `maybe` if they are there; None where there is no record."""
    data = read_json_if_there(path)
    if data is None:
        return None
    _check_fields(path, data, fields | {name: kind for name, kind in (maybe or {}).items() if data.get(name) is not None})
    return data


def _check_fields(path: Path, data: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    for name, kind in fields.items():
        value = data.get(name)
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise Fault(path, None, f"{name} is {value!r:.80}, not {describe_type(kind)}")


def training(path: Path) -> dict[str, Any] | None:
    fields: dict[str, dict[str, type]] = {"trained": {"steps": int, "weights_sha256": str}, "diverged": {"reason": str}}
    data = record(path, {"state": str})
    if data is None:
        return None
    if data["state"] not in fields:
        raise Fault(path, None, f"state {data['state']!r:.80} is neither trained nor diverged")
    _check_fields(path, data, fields[data["state"]])
    surveys = data.get("surveys", {})
    if not isinstance(surveys, dict) or not all(isinstance(v, str) and SHA256.fullmatch(v) for v in surveys.values()):
        raise Fault(path, None, f"surveys is {surveys!r:.80}, not a SHA-256 in hex for each file")
    if data["state"] == "trained" and not SHA256.fullmatch(data["weights_sha256"]):
        raise Fault(path, None, f"weights_sha256 is {data['weights_sha256']!r:.80}, not a SHA-256 in hex")
    return data


def timing(path: Path) -> dict[str, Any] | None:
    names = ("training_seconds", "images_per_second", "pairs_per_image")
    later = ("seconds_per_epoch", "attack_share", "peak_memory_bytes", "survey_passes_per_image")
    data = record(path, dict.fromkeys(names, float), dict.fromkeys(later, float))
    for name in (*names, *later):
        value = (data or {}).get(name)
        if value is not None and not 0 <= value < 1e18:
            raise Fault(path, None, f"{name} is {value!r:.80}, which it cannot be")
    return data


def environment(path: Path) -> dict[str, Any] | None:
    data = read_json_if_there(path)
    if data is None:
        return None
    history = data.get("history", [])
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise Fault(path, None, f"history is {history!r:.80}, not a list of objects")
    for entry in (data, *history):
        for name, kind, told in (
            ("libraries", dict, "an object"),
            ("method_sha256", str, "text"),
            ("method_code_sha256", str, "text"),
            ("plugins", dict, "an object"),
            ("presets_of", str, "text"),
            ("data_differs", (list, str), "sentences"),
        ):
            if entry.get(name) is not None and not isinstance(entry[name], kind):
                raise Fault(path, None, f"{name} is {entry[name]!r:.80}, not {told}")
    return data


def check_curve(path: Path) -> None:
    """Fault unless a training curve, if there is one, is a table of finite numbers, empty where a term was not yet there."""
    content = disk.read_if_there(path)
    if content is None:
        return
    try:
        rows = list(csv.reader(io.StringIO(content.decode()), strict=True))
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(rows[0]):
                raise Fault(path, number, f"it has {len(row)} columns, but the header has {len(rows[0])}")
            if wrong := [value for value in row if value and not math.isfinite(float(value))]:
                raise Fault(path, number, f"{wrong[0]:.80} is not a finite number")
    except (ValueError, csv.Error) as error:
        raise Fault(path, None, f"not a training curve: {error!s:.200}") from None
    if len(rows) < 2:
        raise Fault(path, None, "not a training curve: it has no row")
    if not {"epoch", "loss"} <= set(rows[0]) or len(set(rows[0])) < len(rows[0]):
        raise Fault(path, 1, "a training curve has the columns epoch and loss, and each of its columns once")


def tensors(path: Path) -> Mapping[str, Any] | None:
    """The header of a file of weights, which says where each tensor lies; the tensors are not read.

    Raises:
        Fault: it is no such file, or not as long as its header says.
    """
    try:
        with disk.opened(path) as (handle, status):
            start = b"".join(disk.pieces(path, handle, min(8, status.st_size)))
            length = int.from_bytes(start, "little")
            if not 2 <= length <= min(MAX_HEADER, status.st_size - 8):
                raise Fault(path, None, f"not a safetensors file: a header of {length} bytes is impossible")
            text = b"".join(disk.pieces(path, handle, length))
    except Fault as fault:
        if disk.absent(fault):
            return None
        raise
    try:
        header: dict[str, Any] = parse_json(text)
        places = sorted(_extent(tensor) for name, tensor in header.items() if name != "__metadata__")
        end = 0
        for begin, after in places:
            if begin != end or after < begin:
                raise ValueError(f"a tensor begins at byte {begin}, and the one before ends at {end}")
            end = after
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise Fault(path, None, f"not a safetensors file: its header cannot be read ({type(error).__name__}: {error!s:.200})") from None
    if 8 + length + end != status.st_size:
        raise Fault(path, None, f"it has {status.st_size} bytes, but its header tells of {8 + length + end}")
    return header


def _extent(tensor: Mapping[str, Any]) -> tuple[int, int]:
    """Where a tensor begins and ends; ValueError unless that fits its type and shape."""
    begin, after = tensor["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (begin, after, *tensor["shape"])):
        raise ValueError("offsets and shapes must be whole numbers from 0 up")
    if math.prod(tensor["shape"]) * BYTES[tensor["dtype"]] != after - begin:
        raise ValueError(f"a tensor of {tensor['dtype']} and shape {tensor['shape']!s:.40} has {after - begin} bytes")
    return begin, after


def check_weights(path: Path, spec: RunSpec) -> bool:
    """Whether there are weights; Fault unless their header says that they are those of this run."""
    header = tensors(path)
    if header is None:
        return False
    try:
        metadata = parse_json(header["__metadata__"]["certbench"])
    except (ValueError, KeyError, TypeError) as error:
        told = f"{type(error).__name__}: {error!s:.200}"
        raise Fault(path, None, f"its header does not say which run it belongs to ({told})") from None
    if not isinstance(metadata, dict):
        raise Fault(path, None, f"its header does not say which run it belongs to: {metadata!r:.80}")
    if differing := _apart(metadata.get("spec"), to_json(spec)):
        told = "; ".join(f"{name} {theirs!r:.80} there, {ours!r:.80} in spec.json" for name, theirs, ours in differing)
        raise Fault(path, None, f"they are those of another run: {told}")
    if metadata.get("key") != spec.key:
        raise Fault(path, None, f"they are those of run {metadata.get('key')!r:.80}, not {spec.key}")
    return True


def _apart(theirs: object, ours: object, name: str = "") -> list[tuple[str, object, object]]:
    """Where two JSON values differ: the name of the innermost entry and both values."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return [] if canonical(theirs) == canonical(ours) else [(name or "spec", theirs, ours)]
    return [
        difference
        for key in sorted({*theirs, *ours})
        for difference in _apart(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
    ]
