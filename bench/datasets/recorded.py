"""What the record beside a training or certification says of the files that it read: the published ones, or others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.datasets.info import DatasetInfo


def differences(record: Mapping[str, Any] | None) -> list[str]:
    """What makes the files others than the published ones, a sentence for each; empty for the published ones.

    Raises:
        ValueError: it says that they differ, but not in what.
    """
    found = (record or {}).get("data_differs", [])
    if not isinstance(found, list) or not all(isinstance(sentence, str) and any(map(str.isalnum, sentence)) for sentence in found):
        raise ValueError(f"data_differs is {found!r}, not a list of sentences that say in what the files differ")
    return found


def test_differences(record: Mapping[str, Any] | None, info: DatasetInfo) -> list[str]:
    """As `differences`, of test images, whose labels are then not those of the data set.

    Raises:
        ValueError: as `differences`, or beside the MD5s of the published test files.
    """
    found, read = differences(record), (record or {}).get("data_md5")
    published = {file.name: file.md5 for file in (info.source.files if info.source else ()) if file.split == "test" and file.md5}
    if found and published and isinstance(read, dict) and published.items() <= read.items():
        raise ValueError(f"data_differs says {found[0]!r}, but data_md5 is that of the published test files")
    return found
