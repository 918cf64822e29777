"""Whether two records name one source. A record has two hashes of it: `NAME_code_sha256`, which leaves comments and docstrings out, counts;
`NAME_sha256`, over the whole text, is all that earlier releases wrote, and is compared where one of two records has no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def of_code(name: str) -> str:
    """The field beside one that hashes a whole text; another name as it is."""
    return name.removesuffix("_sha256") + "_code_sha256" if name.endswith("_sha256") and not name.endswith("_code_sha256") else name


def differs(before: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
    """Whether a field of two records differs; one that an older release did not record cannot."""
    if of_code(name) in before and of_code(name) in now:
        name = of_code(name)
    return name in before and before[name] != now.get(name)


def compared(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that count: no hash of a text where there is one of its code."""
    return {name: value for name, value in record.items() if of_code(name) == name or of_code(name) not in record}


def names_of(records: Iterable[Mapping[str, Any]], field: str = "method_sha256") -> dict[str, str]:
    """Hash of a text -> hash of its code, as far as records know both."""
    return {str(record[field]): str(record[of_code(field)]) for record in records if record.get(field) and record.get(of_code(field))}


def came_from(record: Mapping[str, Any], name: str) -> str:
    """Which plug-in defined a name, as a record says it: the end of a sentence. It is a suggestion; whoever follows it runs that file."""
    file = f"{name}.py"
    code = (record.get("plugins") or {}).get(file)
    return f"; it came from {file} (SHA-256 of its code: {code[:16]}...): give --plugin {file}" if isinstance(code, str) else ""
