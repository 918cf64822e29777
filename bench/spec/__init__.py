"""What a run is: frozen specs, their canonical JSON, their keys, and the seeds derived from them.

A run is a training and any number of certifications of the model it gave, so each has a key of its own.
The confidence parameter alpha is applied when evidence is read and is in no key; neither are paths, the kind of device,
samples per pass and worker counts. Precision and the number of devices that train one model change results, so they are.
"""

from bench.spec.canonical import canonical, derive, digest, parse_json
from bench.spec.certification import MOST_SAMPLES, SAMPLINGS, CertifySpec
from bench.spec.images import describe_images, normal, same_images, select_images
from bench.spec.protocols import DEFAULT_PROTOCOL, PROTOCOL_ALIASES, PROTOCOLS, RECIPES, Protocol, protocol_train, survey_limit
from bench.spec.stored import LATER, SCHEMA, from_json, hyperparameters, to_json
from bench.spec.training import AUGMENTS, IN_MEMORY, NAME, STREAMED, TRAIN_PRECISIONS, RunSpec, TrainSpec, check_sigma, names_row, row_name
from bench.spec.values import Scalar, coerce, describe_type, differing, replace_checked, scalar_word

__all__ = ["canonical", "derive", "digest", "parse_json"]
__all__ += ["MOST_SAMPLES", "SAMPLINGS", "CertifySpec"]
__all__ += ["describe_images", "normal", "same_images", "select_images"]
__all__ += ["DEFAULT_PROTOCOL", "PROTOCOLS", "PROTOCOL_ALIASES", "RECIPES", "Protocol", "protocol_train", "survey_limit"]
__all__ += ["LATER", "SCHEMA", "from_json", "hyperparameters", "to_json"]
__all__ += ["AUGMENTS", "IN_MEMORY", "NAME", "STREAMED", "TRAIN_PRECISIONS", "RunSpec", "TrainSpec", "check_sigma", "names_row", "row_name"]
__all__ += ["Scalar", "coerce", "describe_type", "differing", "replace_checked", "scalar_word"]
