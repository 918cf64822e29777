"""Hostile names and configurations: each is refused in one sentence, nothing is run, written or left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_store import CERTIFY, run_spec
from test_contract import GOOD
from typer.testing import Result

from bench.errors import BenchError, UsageError
from bench.files import claims
from bench.files.writing import read_json
from bench.matrix.status import standings
from bench.matrix.task import Task
from bench.registry import Registry
from bench.spec import CertifySpec, RunSpec, canonical, from_json, to_json
from bench.store.checkpoints import Checkpoint, CheckpointSpec, check_row
from bench.store.runs import Store

Call = Callable[..., Result]

NAMES = [
    *("", ".", "..", "../x", "..\\x", "a/b", "a\\b", "/etc/passwd", "C:\\x", "~", "~root", "a/../../b", ".hidden", "a.b", "a."),
    *("A", "COHEN", "Cohen", "ünï", "аdmin", "naïve", "a²", "①", "ＡＢＣ", "a\u200bb", "a\u202eb", "\u2028", "\ufeffa", "🙂", "\ud800"),
    *(" a", "a ", "a b", "a\tb", "a\n", "a\nb", "a\rb", "a\0b", "a\x1b[31mb", "a\x7f", "-rf", "--results", "-", "_a"),
    *("a;b", "a|b", "a&b", "$(reboot)", "`reboot`", "a>b", "a'b", 'a"b', "*", "?", "{a}", "a,b", "a=b", "=1+1", "@x", "+x", "%2e%2e"),
    *("<script>", "{{7*7}}", "\\input{x}", "a" * 65, "a" * 100_000),
]


def short(name: str) -> str:
    return ascii(name)[:40]


def refused(work: Callable[[], object]) -> None:
    with pytest.raises(BenchError) as caught:
        work()
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert len(text) < 1500, text[:100]


@pytest.mark.parametrize("name", NAMES, ids=short)
def test_no_hostile_name_becomes_part_of_a_path(tmp_path: Path, name: str) -> None:
    """As a method, variant or data set of a stored spec or of a task; `a.b` may not even be a method, for the dot is the variant's."""
    spec = to_json(run_spec())
    for field in ("method", "variant", "dataset"):
        text = json.dumps(spec | {field: name})
        refused(partial(from_json, RunSpec, text, "spec.json"))
        task = {
            "spec": spec | {field: name},
            "certify": to_json(CERTIFY),
            "results": "/x",
            "plugins": [],
            "source_sha256": "",
            "options": {},
        }
        refused(partial(Task.from_text, json.dumps(task)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not set(name) & set("/\0\ud800") and len(name.encode()) < 200 and name], ids=short
)
def test_no_hostile_name_is_that_of_a_plugin(tmp_path: Path, name: str) -> None:
    """The file is there, so that only its name can be what is refused; it is not imported."""
    path = tmp_path / f"{name}.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{GOOD}")
    with pytest.raises(UsageError):
        Registry((path,)).entries()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if not set(name) & set("\0\ud800") and len(name) < 100], ids=short)
def test_no_hostile_name_gets_past_the_command_line(bench: Call, tmp_path: Path, name: str) -> None:
    for flag in ("--method", "--dataset"):
        result = bench("run", f"{flag}={name}", "--sigma=0.25", "--protocol=smoke", f"--results={tmp_path / 'runs'}", "--dry-run")
        if result.exit_code == 0:  # a pattern, or blanks around a name: what is planned are real methods
            assert name.strip() in ("*", "?", "a b") or not name.strip(), name
        else:
            assert result.exit_code == 2, result.output
            assert "Traceback" not in result.output
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("a.b", "a.")], ids=short)
def test_no_hostile_name_is_a_row_of_tables(bench: Call, tmp_path: Path, name: str) -> None:
    """Said on the command line, or by a record in a folder that came from elsewhere."""
    with pytest.raises(ValueError, match=r"is not a name"):
        check_row(name)
    place = tmp_path / "checkpoints" / "mnist" / "lenet" / "x"
    place.mkdir(parents=True)
    subject = Checkpoint(place, CheckpointSpec(dataset="mnist", sigma=0.5, arch="lenet", normalization="none", weights_sha256="a" * 64))
    subject.origin_file.write_text(json.dumps({"name": name, "row": name}))
    refused(subject.origin)
    if not set(name) & set("\0\ud800") and len(name) < 100:
        result = bench("certify", "x.pth", f"--row={name}", f"--results={tmp_path / 'runs'}")
        assert (result.exit_code, "Traceback" in result.output, "\x1b" in result.output) == (2, False, False)
        assert "is not a name" in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", ["/dev/zero", "/", "..", "missing.py", "fifo.py", "loop.py", "folder.py", "a" * 5000 + ".py"], ids=short)
def test_what_is_no_file_is_no_plugin(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Nothing of it is read: a device or a pipe would never end."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.py")
    Path("loop.py").symlink_to("loop.py")
    Path("folder.py").mkdir()
    result = bench("run", "--plugin", path, "--sigma=0.25", "--protocol=smoke", "--results=runs", "--dry-run")
    assert result.exit_code == 2, result.output
    assert f"plug-in {path} is not a file" in result.output.replace("\n", "")
    assert not Path("runs").exists()


def test_there_are_enough_hostile_names() -> None:
    assert len(set(NAMES)) >= 40


# ------------------------------------------------------------------------------------------------------------------ configurations

SPEC = canonical(to_json(run_spec()))
HUGE = "9" * 5000


def changed(**fields: Any) -> str:
    return json.dumps(to_json(run_spec()) | fields)


def trained(**fields: Any) -> str:
    spec = to_json(run_spec())
    return json.dumps(spec | {"train": spec["train"] | fields})


SIGMA = changed(sigma="SIGMA").replace('"SIGMA"', "SIGMA")
SPECS: dict[str, str | bytes] = {
    "empty": "",
    "blank": " ",
    "cut": SPEC[:-1],
    "two": SPEC + SPEC,
    "list": f"[{SPEC}]",
    "text": json.dumps(SPEC),
    "null": "null",
    "no UTF-8": b"\xff\xfe" + SPEC.encode(),
    "nested": "[" * 100_000,
    "nested objects": '{"a":' * 50_000,
    "key twice": SPEC[:-1] + ',"seed":1}',
    "NaN": SIGMA.replace("SIGMA", "NaN"),
    "Infinity": SIGMA.replace("SIGMA", "Infinity"),
    "overflow": SIGMA.replace("SIGMA", "1e999"),
    "huge number": SIGMA.replace("SIGMA", HUGE),
    "YAML": "method: !!python/object/apply:os.system ['true']",
    "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "unknown key": changed(methods="x"),
    "class": changed(__class__="os.system"),
    "no schema": json.dumps({k: v for k, v in to_json(run_spec()).items() if k != "schema"}),
    "another schema": changed(schema=999),
    "schema true": changed(schema=True),
    "sigma 0": changed(sigma=0),
    "sigma below 0": changed(sigma=-0.25),
    "sigma true": changed(sigma=True),
    "sigma text": changed(sigma="0.25"),
    "seed below 0": changed(seed=-1),
    "seed of 64 bits": changed(seed=2**63),
    "seed 1.5": changed(seed=1.5),
    "hyperparameters list": changed(hyperparameters=[1]),
    "hyperparameters nested": changed(hyperparameters={"steps": {"__reduce__": "x"}}),
    "train null": changed(train=None),
    "epochs 0": trained(epochs=0),
    "epochs text": trained(epochs="90"),
    "batch below 0": trained(batch=-1),
    "lr below 0": trained(lr=-1.0),
    "images": trained(images="; rm -rf ~"),
    "images backwards": trained(images="10-5"),
}

CERTIFICATIONS: dict[str, dict[str, object]] = {
    "n 0": {"n": 0},
    "n below 0": {"n": -1},
    "n true": {"n": True},
    "n text": {"n": "1000"},
    "n0 0": {"n0": 0},
    "rule": {"rule": "none"},
    "images": {"images": "all; true"},
    "unknown": {"alpha": 0.5},
    "seed": {"seed": "0"},
}


@pytest.mark.parametrize("what", SPECS)
def test_a_hostile_spec_is_refused_and_hides_no_other_run(tmp_path: Path, what: str) -> None:
    text = SPECS[what]
    refused(lambda: from_json(RunSpec, text, "spec.json"))
    place = tmp_path / "mnist" / "x" / "run-0123456789abcdef" / "spec.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    (row,) = standings(Store(tmp_path))
    assert row["state"] == "damaged"
    assert row["retry"] is None


@pytest.mark.parametrize("what", CERTIFICATIONS)
def test_a_hostile_certification_is_refused(what: str) -> None:
    refused(lambda: from_json(CertifySpec, json.dumps(to_json(CERTIFY) | CERTIFICATIONS[what]), "spec.json"))


WORDS = [
    *("step_size", "=1", "step_size=", "step_size=a", "step_size=nan", "step_size=inf", "step_size=1e999", f"steps={HUGE}", "steps=1.5"),
    *("steps=True", "__class__=x", "loss=x", "presets=x", "variants=x", "train.__init__=x", "train.arch=../../x", "train.arch=os:system"),
    *("train.epochs=0", "train.epochs=-1", "train.lr=nan", "train.batch=1e9999", "train.images=all;true", "train.unknown=1", "certify.n=0"),
    *("certify.n=nan", "certify.n=1000000000000000000000000", "certify.alpha=0.5", "certify.changes=x", "certify.images=first:0", "x.y=1"),
    *("step_size=1\x1b[31m", "step_size=1\n2", "step_size=$(reboot)", "step_size=__import__('os').system('true')", "seed=5", "sigma=0"),
]


@pytest.mark.parametrize("word", WORDS, ids=short)
def test_a_hostile_change_is_refused(bench: Call, tmp_path: Path, word: str) -> None:
    words: list[str | Path] = [
        "--method",
        "smoothmix",
        "--sigma",
        "0.25",
        "--protocol",
        "smoke",
        "--results",
        tmp_path / "runs",
        f"--set={word}",
        "--dry-run",
    ]
    result = bench("run", *words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert "\x1b[31m" not in result.output
    assert not (tmp_path / "runs").exists()


CLAIMS: dict[str, str | bytes] = {
    "empty": "",
    "cut": '{"host":"a",',
    "list": "[]",
    "nested": "[" * 100_000,
    "pid text": '{"host":"a","pid":"$(reboot)"}',
    "pid huge": f'{{"host":"a","pid":{HUGE}}}',
    "pid below 0": '{"host":"a","pid":-1,"system":"x"}',
    "NaN": '{"host":"a","pid":1,"left":NaN}',
    "no UTF-8": b"\xff\xfe",
    "long": '{"host":"' + "a" * 1_000_000 + '","pid":1}',
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_hostile_claim_counts_by_its_age_and_kills_nobody(tmp_path: Path, what: str) -> None:
    path, text = tmp_path / "claim-1.json", CLAIMS[what]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = claims.holder(tmp_path)
    assert found
    assert not found.stale
    with pytest.raises(claims.Claimed), claims.held(tmp_path):
        pass
    os.utime(path, (0, 0))
    with claims.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_any_other_name_is_none(tmp_path: Path) -> None:
    for name in (
        "claim-0.json",
        "claim-01.json",
        "claim--1.json",
        "claim-1.json~",
        "claim-².json",
        "claim-9999999999.json",
        "claim-1.json.tmp",
    ):
        (tmp_path / name).write_text('{"host":"a","pid":1}')
    assert claims.holder(tmp_path) is None


def test_a_record_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    refused(lambda: read_json(path))


def test_there_are_enough_hostile_configurations() -> None:
    assert len(SPECS) + len(CERTIFICATIONS) >= 40
    assert len(set(WORDS)) + len(CLAIMS) >= 40
