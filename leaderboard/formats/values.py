"""CSV and JSON, in full precision."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leaderboard.formats.page import clean


def as_csv(fields: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """One line per value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows([field(line.get(name)) for name in fields] for line in lines)
    return file.getvalue()


def field(value: object) -> str:
    """A value as it stands in a CSV: numbers in full, empty for None."""
    if isinstance(value, str):
        text = clean(value)
        # A spreadsheet would run such a text as a formula.
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return "" if value is None else repr(value)


def picked(thing: object, *names: str) -> dict[str, Any]:
    """Some attributes of an object, by name."""
    return {name: getattr(thing, name) for name in names}


def as_json(data: Mapping[str, Any]) -> str:
    """Indented JSON."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
