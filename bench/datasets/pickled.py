"""CIFAR's batches: pickles of a dict with a byte array, read without unpickling anything.

The files are pickles of Python 2, and unpickling runs whatever a file says. So nothing is unpickled here: the opcodes are parsed by
`pickletools` and a few of them are followed on a stack of plain values. A name in the file is compared with five known ones and is never
imported or called.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bench.datasets.source import Arrays, Source, md5_of, read_bytes
from bench.errors import BenchError

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SINGLES = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_SILENT = {"PROTO", "FRAME"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """What a file calls by name: compared with the known ones, never looked up."""

    module: str
    name: str


_RECONSTRUCT = {_Name("numpy.core.multiarray", "_reconstruct"), _Name("numpy._core.multiarray", "_reconstruct")}
_ENCODE, _NDARRAY, _DTYPE = _Name("_codecs", "encode"), _Name("numpy", "ndarray"), _Name("numpy", "dtype")
_NAMES = _RECONSTRUCT | {_ENCODE, _NDARRAY, _DTYPE}


@dataclass
class _Array:
    """An array whose content comes with a later opcode."""

    content: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Dtype:
    word: str


def read_plain(raw: bytes) -> Any:
    """The value of a pickle that is made of dicts, lists, tuples, strings, numbers and numpy arrays of bytes.

    Raises:
        ValueError: anything else stands in it, or it is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = marks.pop()
        values = stack[at:]
        del stack[at:]
        return values

    try:
        for opcode, argument, _ in _opcodes(raw):
            name, arg = opcode.name, cast(Any, argument)
            if name in _SINGLES or name in _TEXTS or name in _BYTES:
                stack.append(arg)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[arg] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif name == "MARK":
                marks.append(len(stack))
            elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"):
                stack.append({"EMPTY_LIST": [], "EMPTY_DICT": {}, "EMPTY_TUPLE": ()}[name])
            elif name in ("LIST", "TUPLE"):
                values = since_mark()
                stack.append(values if name == "LIST" else tuple(values))
            elif name in _TUPLES:
                values = [stack.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(reversed(values)))
            elif name in ("APPEND", "APPENDS"):
                values = since_mark() if name == "APPENDS" else [stack.pop()]
                _of(list, stack[-1]).extend(values)
            elif name in ("SETITEM", "SETITEMS", "DICT"):
                values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
                if name == "DICT":
                    stack.append({})
                keys = [_of(str, key) for key in values[::2]]
                _of(dict, stack[-1]).update(zip(keys, values[1::2], strict=True))
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                module, _, attribute = arg.partition(" ") if name == "GLOBAL" else (stack.pop(-2), "", stack.pop())
                named = _Name(_of(str, module), _of(str, attribute))
                if named not in _NAMES:
                    raise ValueError(f"it names {module}.{attribute}, which no array of bytes needs")
                stack.append(named)
            elif name == "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_call(called, arguments))
            elif name == "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            elif name == "STOP":
                return stack.pop()
            elif name not in _SILENT:
                raise ValueError(f"opcode {name} has no place in it")
    except (IndexError, KeyError, TypeError, OverflowError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from None
    raise ValueError("it is cut short")


def _of(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} stands where a {kind.__name__} belongs")
    return value


def _call(called: Any, arguments: Any) -> Any:
    """What a known name makes of its arguments, put together here."""
    _of(_Name, called)
    if called in _RECONSTRUCT and arguments[0] == _NDARRAY:
        return _Array()
    if called == _DTYPE and isinstance(arguments[0], str):
        return _Dtype(arguments[0])
    if called == _ENCODE and arguments[1] in ("latin1", "latin-1"):
        return arguments[0].encode("latin-1")
    raise ValueError("it calls something that no array of bytes needs")


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Dtype):
        return  # byte order and alignment, which bytes do not have
    array = _of(_Array, target)
    _, shape, dtype, by_column, content = state
    if dtype not in (_Dtype("u1"), _Dtype("uint8")):
        raise ValueError(f"it holds an array of {dtype}, not of bytes")
    raw = content.encode("latin-1") if isinstance(content, str) else content
    array.content = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_column else "C")


@dataclass(frozen=True, kw_only=True)
class Pickled(Source):
    """Batches of 3x32x32 images: pickled dicts of `data` (N 3072, planes of red, green, blue) and labels.

    Attributes:
        label_key: the key of the labels.
    """

    label_key: str = "labels"

    def read(self, folder: Path, split: str) -> Arrays:
        batches = [(name, *self._batch(folder / name)) for name in self.wanted(split)]
        return Arrays(
            np.concatenate([pixels for _, pixels, _, _ in batches]),
            np.concatenate([labels for _, _, labels, _ in batches]),
            {name: md5 for name, _, _, md5 in batches},
        )

    def _batch(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
        raw = read_bytes(path)
        try:
            batch = _of(dict, read_plain(raw))
        except ValueError as error:
            raise BenchError(f"{path} is no batch of images: {error}") from None
        data, labels = batch.get("data"), batch.get(self.label_key)
        pixels = data.content if isinstance(data, _Array) else None
        if pixels is None or pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
            found = "no array" if pixels is None else f"an array of {'x'.join(map(str, pixels.shape))}"
            raise BenchError(f"{path}: under 'data' stands {found}, not N rows of 3072 bytes")
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise BenchError(f"{path}: under {self.label_key!r} stands no list of whole numbers")
        if len(labels) != len(pixels):
            raise BenchError(f"{path} holds {len(pixels)} images, but {len(labels)} labels")
        try:
            return pixels.reshape(-1, 3, 32, 32), np.array(labels, np.int64), md5_of(raw)
        except OverflowError:
            raise BenchError(f"{path}: a label is no class") from None


def _opcodes(raw: bytes) -> list[Any]:
    """Every opcode of a pickle; a warning about damaged text in it would only repeat what the caller finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(pickletools.genops(raw))
