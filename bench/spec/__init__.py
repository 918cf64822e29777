"""What a run is: frozen specs, their canonical JSON, their keys, and the seeds derived from them.

A run is a training and any number of certifications of the model it gave, so each has a key of its own.
The confidence parameter alpha is applied when evidence is read and is in no key; neither are paths, the kind of device,
samples per pass and worker counts. Precision and the number of devices that train one model change results, so they are.
"""

from bench.spec.canonical import canonical, derive, digest, parse_json
from bench.spec.certification import MOST_SAMPLES, SAMPLINGS, CertifySpec
from bench.spec.images import describe_images, normal, same_images, select_images
from bench.spec.protocols import DEFAULT_PROTOCOL, PROTOCOL_ALIASES, PROTOCOLS, RECIPES, Protocol, protocol_train
from bench.spec.stored import SCHEMA, from_json, to_json
from bench.spec.training import (
    AUGMENTS,
    IN_MEMORY,
    NAME,
    STREAMED,
    TRAIN_PRECISIONS,
    RunSpec,
    TrainSpec,
    check_sigma,
    row_name,
)
from bench.spec.values import Scalar, coerce, describe_type, replace_checked, scalar_word

__all__ = [
    "AUGMENTS",
    "DEFAULT_PROTOCOL",
    "IN_MEMORY",
    "MOST_SAMPLES",
    "NAME",
    "PROTOCOLS",
    "PROTOCOL_ALIASES",
    "RECIPES",
    "SAMPLINGS",
    "SCHEMA",
    "STREAMED",
    "TRAIN_PRECISIONS",
    "CertifySpec",
    "Protocol",
    "RunSpec",
    "Scalar",
    "TrainSpec",
    "canonical",
    "check_sigma",
    "coerce",
    "derive",
    "describe_images",
    "describe_type",
    "digest",
    "from_json",
    "normal",
    "parse_json",
    "protocol_train",
    "replace_checked",
    "row_name",
    "same_images",
    "scalar_word",
    "select_images",
    "to_json",
]
