"""What a run is: frozen specs, their canonical JSON, their keys, and the seeds derived from them.

A run is a training and any number of certifications of the model it gave, so each has a key of its own.
The confidence parameter alpha is applied when evidence is read and is in no key; neither are paths, the kind of device,
samples per pass and worker counts. Precision and the number of devices that train one model change results, so they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from bench import rules
from bench.errors import BenchError, clipped, nearest

SCHEMA = 1
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")

Scalar = bool | int | float | str | None

LATER = {"later": True}
"""Metadata of a field that came after keys had been published: it is written only where it is not the default, so that those keys stay."""
SAMPLINGS = ("float32", "grid")
TRAIN_PRECISIONS = ("float32", "tf32", "bf16", "fp16")
"""Of a training's passes: float32; its products in TF32 (CUDA only); bfloat16 or float16 where that is safe (autocast). Weights are
float32."""


def derive(seed: int, *purpose: str | int) -> int:
    """One independent 64-bit seed per purpose, e.g. `derive(0, "order", epoch)`.

    The hash keeps seeds of neighbouring runs, epochs and images unrelated, where `seed + index` would collide.
    """
    text = canonical([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def canonical(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN (ValueError)."""
    return _ENCODER.encode(value)


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of a value's canonical JSON: the key of a spec."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a number of JSON")


MOST_DIGITS = 40
"""Of whole numbers in records: seeds have 20, and what has hundreds ends in errors of arithmetic."""


def _finite(word: str) -> float:
    return float(word) if math.isfinite(float(word)) else _refuse(word)


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits; none has more than {MOST_DIGITS}")
    return int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)


def parse_json(text: str | bytes) -> Any:
    """Strict JSON: duplicate keys, NaN, Infinity, bytes that are no UTF-8 and halves of a character are refused with ValueError."""

    if isinstance(text, bytes):
        text = text.decode()  # json.loads would guess at other encodings, and let halves of a character pass
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _SURROGATE.search(text):
        try:
            canonical(value).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half of a character, which no file can") from None
    return value


def coerce(value: object, kind: Any) -> Scalar:
    """Checks a JSON value (or a command line word) against a field's type and returns it in that type.

    Words are read as the type asks: `coerce("0.5", float)`, `coerce("none", float | None)`.

    Raises:
        ValueError: the value does not fit; the message says what would.
    """
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    if type(None) in options and (value is None or value in ("none", "None", "null")):
        return None
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            words = typing.get_args(option)
            if value in words:
                return typing.cast(Scalar, value)
            raise ValueError(f"must be one of {', '.join(map(str, words))}{nearest(str(value), map(str, words))}")
        if option is bool:
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and value.lower() in ("true", "false"):
                return value.lower() == "true"
        elif option is int and not isinstance(value, bool):
            if isinstance(value, int):
                return value
            if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII):
                return int(value)
        elif option is float and not isinstance(value, bool):
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(number):
                return number
        elif option is str and isinstance(value, str):
            return value
    raise ValueError(f"must be {describe_type(kind)}")


def describe_type(kind: Any) -> str:
    """A type as a user reads it: `a number`, `a whole number or none`, `kl | cross-entropy`."""
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word", type(None): "none"}
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(describe_type(option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    return words.get(kind, str(kind))


def replace_checked(
    instance: Any, changes: Mapping[str, object], what: str, hint: Callable[[str, Iterable[str]], str] = nearest
) -> tuple[Any, list[str]]:
    """`dataclasses.replace` for values from outside: every problem is collected as a sentence.

    Args:
        hint: how a sentence on an unknown name ends, of that name and of those that there are.

    Returns:
        the changed instance (the old one if anything is wrong) and the problems.
    """
    hints = typing.get_type_hints(type(instance))
    fields = {f.name: hints[f.name] for f in dataclasses.fields(instance) if f.init}
    good: dict[str, Any] = {}
    problems = []
    for name, value in changes.items():
        if name not in fields:
            problems.append(f"{what} has no field {name!r}{hint(name, fields)}")
            continue
        try:
            if isinstance(value, str) and not value.isprintable():
                raise ValueError("must be a word without control characters")
            good[name] = coerce(value, fields[name])
        except ValueError as error:
            problems.append(f"{what}: {name}={value} is wrong: it {error}")
    if problems:
        return instance, problems
    try:
        return dataclasses.replace(instance, **good), []
    except (ValueError, TypeError) as error:
        return instance, [f"{what}: {error}"]


def _normalise(spec: Any) -> None:
    """Equal specs get equal keys: an int in a float's place becomes a float, `every=20` becomes `every:20`."""
    for f in dataclasses.fields(spec):
        value = getattr(spec, f.name)
        if f.type == "float" and type(value) is int:
            object.__setattr__(spec, f.name, float(value))
        elif f.name == "images":
            object.__setattr__(spec, f.name, value.replace("=", ":"))


def _positive(spec: object, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if not value > 0:
            raise ValueError(f"{name}={value} must be greater than 0")


IN_MEMORY = ("none", "crop", "crop-flip")
"""Augmentations of images in memory: none, random crop after padding by 4, the same and a horizontal flip."""

STREAMED = ("none", "resized-crop-flip")
"""Augmentations of images that are decoded one by one: none, random resized crop and flip."""

AUGMENTS = tuple(dict.fromkeys(IN_MEMORY + STREAMED))


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a base classifier is trained, apart from its loss.

    Training time is measured on the recipe's clock: `clock` epochs from start to end, however short the training
    is. Learning rate drops and a method's ramps are stated on that clock, so a shortened protocol shortens them all
    in proportion. With `epochs == clock` and every image it is the plain epoch number.
    """

    arch: str
    epochs: int  # passes over the chosen images
    clock: int  # epochs of the full recipe
    batch: int  # images per optimiser step
    lr: float
    lr_step: int  # clock epochs between drops of the learning rate
    lr_lag: int = 0  # clock epochs by which each drop comes late
    lr_gamma: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    images: str = "all"  # which training images, see `select_images`
    precision: str = "float32"  # of the base classifier's passes, see TRAIN_PRECISIONS
    augment: str = field(default="none", metadata=LATER)  # one of AUGMENTS
    devices: int = field(default=1, metadata=LATER)  # that share each step; the order of their sums and batch norm make it another training
    sync_batchnorm: bool = field(default=False, metadata=LATER)  # batch norm over the whole step, not over each device's share

    def __post_init__(self) -> None:
        _normalise(self)
        _positive(self, "epochs", "clock", "batch", "lr", "lr_step", "lr_gamma")
        for name in ("lr_lag", "momentum", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true needs a momentum greater than 0")
        if self.precision not in TRAIN_PRECISIONS:
            raise ValueError(f"precision={self.precision} is not supported{nearest(self.precision, TRAIN_PRECISIONS)}")
        if self.augment not in AUGMENTS:
            raise ValueError(f"augment={self.augment} is unknown{nearest(self.augment, AUGMENTS)}")
        if not 1 <= self.devices <= self.batch:
            raise ValueError(f"devices={self.devices} must lie between 1 and batch={self.batch}, the images of a step that they share")
        if self.sync_batchnorm and self.devices == 1:
            raise ValueError("sync_batchnorm=true needs devices greater than 1")
        select_images(self.images, 1)

    def lr_at(self, epoch: int) -> float:
        """Learning rate at an epoch of the recipe's clock (a step schedule)."""
        return self.lr * self.lr_gamma ** (max(0, epoch - self.lr_lag) // self.lr_step)


MOST_SAMPLES = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class CertifySpec:
    """How a smoothed classifier is certified: CERTIFY of Cohen et al. (2019), Algorithm "certification"."""

    n0: int  # samples that choose the class
    n: int  # fresh samples that count it
    images: str = "all"  # which test images, see `select_images`
    seed: int = 0
    rule: str = rules.DEFAULT  # how sampling stops, see bench.rules
    precision: str = "float32"
    sampling: str = field(default="float32", metadata=LATER)  # float32, or grid: sums that are exact in floating point
    skip_misclassified: bool = field(default=False, metadata=LATER)  # no estimation where the selected class is wrong
    stop_alpha: float = field(default=0.001, metadata=LATER)  # at which the rules that stop early stop; evidence is read at it or below
    radius_step: float = field(default=0.25, metadata=LATER)  # rules that stop for fixed radii stop for its multiples
    changes: Mapping[str, Scalar] = field(default_factory=dict)  # what --set changed of the protocol

    def __post_init__(self) -> None:
        _normalise(self)
        _positive(self, "n0", "n")
        for name in ("n0", "n"):
            if getattr(self, name) > MOST_SAMPLES:
                raise ValueError(f"{name}={getattr(self, name)} is more than {MOST_SAMPLES}, the largest count that evidence holds")
        rules.check_stored(self.rule)
        if not 0 < self.stop_alpha < 0.5:
            raise ValueError(f"stop_alpha={self.stop_alpha} must lie between 0 and 0.5, both excluded; 0.001 is usual")
        if not (math.isfinite(self.radius_step) and self.radius_step > 0):
            raise ValueError(f"radius_step={self.radius_step} must be a finite number greater than 0")
        if self.precision != "float32":
            raise ValueError(f"precision={self.precision} is not supported; there is float32")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling={self.sampling} is not supported{nearest(self.sampling, SAMPLINGS)}")
        select_images(self.images, 1)

    @cached_property
    def key(self) -> str:
        """16 hex digits; names the certification within a run."""
        return digest(to_json(self))


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One trained model: what the training key is made of."""

    method: str
    variant: str
    hyperparameters: Mapping[str, Scalar]  # every field of the method, resolved
    dataset: str
    sigma: float  # noise level, in pixels of [0, 1]
    seed: int
    recipe: str
    protocol: str
    train: TrainSpec
    changes: Mapping[str, Scalar] = field(default_factory=dict)  # --set: hyperparameters by name, training as train.name

    def __post_init__(self) -> None:
        _normalise(self)
        for name in ("method", "variant", "dataset", "recipe", "protocol"):
            if not NAME.match(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)!r} is not a name: lower case letters, digits, - and _")
        check_sigma(self.sigma)
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} must lie in 0 .. 2**63 - 1")

    @cached_property
    def key(self) -> str:
        """16 hex digits; names the training."""
        return digest(to_json(self))

    @cached_property
    def row(self) -> str:
        """The name of the table row, e.g. `smoothmix.eta5[step_size=0.5]`."""
        return row_name(self.method, self.variant, {k: v for k, v in self.changes.items() if "." not in k})

    @cached_property
    def cell(self) -> str:
        """What seeds of one configuration share: the canonical spec without its seed."""
        return canonical({k: v for k, v in to_json(self).items() if k != "seed"})


def row_name(method: str, variant: str, changes: Mapping[str, Scalar]) -> str:
    """The name of a table row, e.g. `smoothmix.eta5[step_size=0.5]`: changed hyperparameters stand in its brackets."""
    name = method if variant == "default" else f"{method}.{variant}"
    own = [f"{k}={scalar_word(v)}" for k, v in sorted(changes.items())]
    return f"{name}[{','.join(own)}]" if own else name


def scalar_word(value: Scalar) -> str:
    """A value as --set takes it."""
    return value if isinstance(value, str) else "none" if value is None else canonical(value)


def check_sigma(sigma: float) -> None:
    """ValueError unless sigma is a finite number above 0."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma {sigma} must be a finite number greater than 0, such as 0.25")


def to_json(spec: Any) -> dict[str, Any]:
    """A spec as plain JSON values, with its schema version."""
    return {"schema": SCHEMA, **_plain(spec)}


def _plain(spec: Any) -> dict[str, Any]:
    values = {
        f.name: getattr(spec, f.name)
        for f in _fields(type(spec))[1].values()
        if not (f.metadata.get("later") and getattr(spec, f.name) == f.default)
    }
    return {k: v if type(v) in _SCALARS else _plain_train(v).copy() if isinstance(v, TrainSpec) else dict(v) for k, v in values.items()}


@lru_cache(maxsize=256)
def _plain_train(train: TrainSpec) -> dict[str, Any]:
    return _plain(train)


_FIELDS: dict[type[Any], tuple[Mapping[str, Any], Mapping[str, dataclasses.Field[Any]]]] = {}


def _fields(cls: type[Any]) -> tuple[Mapping[str, Any], Mapping[str, dataclasses.Field[Any]]]:
    """Types and fields of a spec, by name."""
    if cls not in _FIELDS:
        _FIELDS[cls] = typing.get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    return _FIELDS[cls]


def _build(cls: type[Any], data: object, where: str) -> Any:
    if not isinstance(data, dict):
        raise BenchError(f"{where}: expected an object, found {type(data).__name__}")
    hints, fields = _fields(cls)
    for name in data:
        if name not in fields:
            raise BenchError(f"{where}: unknown key {name!r}{nearest(name, fields)}")
    values: dict[str, Any] = {}
    for name, f in fields.items():
        kind = hints[name]
        if name not in data:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise BenchError(f"{where}: key {name!r} is missing")
            continue
        value = data[name]
        if dataclasses.is_dataclass(kind):
            values[name] = _built(typing.cast(type[Any], kind), value, f"{where}: {name}")
        elif typing.get_origin(kind) is Mapping:
            if not isinstance(value, dict) or not all(isinstance(v, (bool, int, float, str, type(None))) for v in value.values()):
                raise BenchError(f"{where}: {name} must be an object of plain values")
            values[name] = value
        elif isinstance(value, str) and kind is not str:
            raise BenchError(f"{where}: {name} must be {describe_type(kind)}, not the text {value!r}")
        else:
            try:
                values[name] = coerce(value, kind)
            except ValueError as error:
                raise BenchError(f"{where}: {name} {error}, not {value!r}") from None
    try:
        return cls(**values)
    except ValueError as error:
        raise BenchError(f"{where}: {error}") from None


_SCALARS = {bool, int, float, str, type(None)}
_BUILT: dict[str, Any] = {}
"""Parts of specs by their text: the runs of a matrix share most of theirs."""


def _built(cls: type[Any], data: object, where: str) -> Any:
    text = f"{cls.__name__} {json.dumps(data)}"
    if text not in _BUILT:
        if len(_BUILT) > 1000:
            _BUILT.clear()
        _BUILT[text] = _build(cls, data, where)
    return _BUILT[text]


T = TypeVar("T", "RunSpec", "CertifySpec", "TrainSpec")


def from_json(cls: type[T], text: str | bytes, where: str) -> T:
    """The inverse of `to_json`, strict.

    Raises:
        BenchError: not JSON, another schema version, unknown, missing or ill-typed keys; `where` opens the sentence.
    """
    try:
        data = parse_json(text)
    except ValueError as error:
        raise BenchError(f"{where}: not a valid spec: {error}") from None
    if not isinstance(data, dict) or type(data.get("schema")) is not int or data["schema"] != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise BenchError(f"{where}: schema version {found!r} is not {SCHEMA}, the one this release reads")
    try:
        part = {k: v for k, v in data.items() if k != "schema"}
        return typing.cast(T, (_built if cls is CertifySpec else _build)(cls, part, where))
    except BenchError as error:
        raise BenchError(clipped(str(error))) from None


@lru_cache(maxsize=256)
def select_images(text: str, size: int) -> range:
    """Indices of the images that a selection names, ascending.

    Args:
        text: `all`, `every:20` (0, 20, 40, ...), `first:500`, or `500-999` (both ends included). `=` may stand for `:`.
        size: how many images there are.

    Raises:
        ValueError: not a selection.
    """
    word = text.replace("=", ":")
    if word == "all":
        return range(size)
    if match := re.fullmatch(r"every:([1-9]\d{0,8})", word, re.ASCII):
        return range(0, size, int(match[1]))
    if match := re.fullmatch(r"first:([1-9]\d{0,8})", word, re.ASCII):
        return range(min(size, int(match[1])))
    if (match := re.fullmatch(r"(\d{1,9})-(\d{1,9})", word, re.ASCII)) and int(match[1]) <= int(match[2]):
        return range(min(size, int(match[1])), min(size, int(match[2]) + 1))
    raise ValueError(f"images={text} is no selection of images: write all, every:20, first:500 or 500-999")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How much is trained and certified.

    Attributes:
        train: fields of TrainSpec that it fixes, for every method alike; the rest is the recipe's.
    """

    name: str
    summary: str
    train: Mapping[str, Scalar]
    certify: CertifySpec
    seeds: tuple[int, ...]


PROTOCOLS: Mapping[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            name="full",
            summary="the paper's Appendix C: every epoch, every test image, n=100,000, seeds 0-4",
            train={},
            certify=CertifySpec(n0=100, n=100_000),
            seeds=(0, 1, 2, 3, 4),
        ),
        Protocol(
            name="quick",
            summary="minutes on two CPU cores, models good enough to compare; see docs/protocols.md",
            train={"epochs": 1, "images": "every:2", "batch": 32, "lr": 0.02},
            certify=CertifySpec(n0=100, n=10_000, images="every:100"),
            seeds=(0,),
        ),
        Protocol(
            name="smoke",
            summary="seconds: shows that everything runs, compares nothing",
            train={"epochs": 1, "images": "every:40", "batch": 16, "lr": 0.05},
            certify=CertifySpec(n0=100, n=1_000, images="every:400"),
            seeds=(0,),
        ),
    )
}
DEFAULT_PROTOCOL = "quick"
PROTOCOL_ALIASES = {"paper": "full"}
"""Words that are understood for a protocol on the command line; a spec has its name."""
RECIPES = ("official", "paper")


def protocol_train(base: TrainSpec, protocol: Protocol) -> TrainSpec:
    """The recipe's training, shortened as the protocol says."""
    return dataclasses.replace(base, **dict(protocol.train))  # type: ignore[arg-type]
