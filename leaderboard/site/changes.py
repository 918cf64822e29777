"""What moved since an earlier version of a page, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.files import disk
from bench.spec import parse_json
from leaderboard.formats import clean

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.S)
LIMIT = 256 * disk.MIB
Place = tuple[str, ...]
Log = list[dict[str, Any]]


def earlier(path: Path) -> dict[str, Any]:
    """The data of a page that `bench site` made.

    Raises:
        BenchError: it cannot be read, or is no such page.
    """
    text = disk.read(path, LIMIT).decode(errors="replace")
    try:
        data = parse_json(DATA.findall(text)[-1])
        if data["schema"] != 1 or not re.fullmatch("[0-9a-f]{16}", data["version"]):
            raise ValueError("another schema")
        _rows(data)
        _log(data)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"{path} is no page of `bench site` ({type(error).__name__}: {error})") from None
    return dict(data)


def changelog(before: Mapping[str, Any], data: Mapping[str, Any], why: str = "") -> Log:
    """What moved since an earlier page, above what moved before that.

    Args:
        before: of `earlier`. data: of the page that is made now. why: in words, for the reader.
    """
    if before["version"] == data["version"]:
        return _log(before)
    old, new = _rows(before), _rows(data)
    moved = [told for place in dict.fromkeys([*new, *old]) if (told := _moved(old.get(place), new.get(place), before, data))]
    entry = {"version": data["version"], "before": before["version"], "why": clean(why), "moved": [clean(text) for text in moved]}
    return [entry | {"moved": entry["moved"] or ["no number"]}, *_log(before)]


def _log(data: Mapping[str, Any]) -> Log:
    """The changes that an earlier page tells, as texts."""
    found = []
    for entry in data["changelog"]:
        if not all(re.fullmatch("[0-9a-f]{16}", entry[name]) for name in ("version", "before")):
            raise ValueError("a version is none")
        own = {name: clean(str(entry[name])) for name in ("version", "before", "why")}
        found.append(own | {"moved": [clean(str(text)) for text in entry["moved"]]})
    return found


def _rows(data: Mapping[str, Any]) -> dict[Place, dict[str, Any]]:
    """What stands in each row, by data set, protocol, rule, sigma and label."""
    found = {}
    for table in data["tables"]:
        decimals = {metric["name"]: (metric["heading"], int(metric["decimals"])) for metric in table["metrics"]}
        for section in table["sections"]:
            for row in section["rows"]:
                place = (*(str(table[name]) for name in ("dataset", "protocol", "rule")), f"sigma {section['sigma']:g}", str(row["label"]))
                stats = {name: (s["mean"] + 0.0, (s["std"] or 0) + 0.0, *decimals[name]) for name, s in row["stats"].items()}
                evidence = {str(t["name"]): str(t["evidence_sha256"]) for t in row["trainings"] if t["images"]}
                found[place] = {"place": ", ".join(place), "stats": stats, "evidence": evidence, "alpha": table["alpha"] + 0.0}
                found[place]["rank"] = "–".join(dict.fromkeys(str(int(rank)) for rank in row["rank"] or ())) or "none"
    return found


def _moved(old: dict[str, Any] | None, new: dict[str, Any] | None, before: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """A sentence on a row; empty where nothing moved."""
    here = new or old or {}
    if not old or not new:
        return f"{here['place']}: {'new' if new else 'no longer there'}"
    numbers = []
    for name in dict.fromkeys([*new["stats"], *old["stats"]]):
        was, now = old["stats"].get(name), new["stats"].get(name)
        if was != now:
            _, _, heading, decimals = now or was
            was, now = (f"{s[0]:.{decimals}f}" + (f" ± {s[1]:.{decimals}f}" if s[1] else "") if s else "nothing" for s in (was, now))
            numbers.append(f"{heading} {was} to {now}" + (" (beyond these digits)" if was == now else ""))
    if old["rank"] != new["rank"]:
        numbers.append(f"rank {old['rank']} to {new['rank']}")
    if not numbers:
        return ""
    if old["evidence"].keys() != new["evidence"].keys():
        reason = f"trainings {', '.join(old['evidence']) or 'none'}, now {', '.join(new['evidence']) or 'none'}"
    elif old["evidence"] != new["evidence"]:
        reason = "other evidence"
    elif old["alpha"] != new["alpha"]:
        reason = f"read at alpha {new['alpha']:g} in place of {old['alpha']:g}"
    elif old["stats"] == new["stats"]:
        reason = "by the test, beside the other rows"
    else:
        reason = f"the same evidence, read by certbench {data['certbench']} in place of {before['certbench']}"
    return f"{new['place']}: {', '.join(numbers)}; {reason}"
