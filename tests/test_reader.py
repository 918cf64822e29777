"""One reader: whatever lies in a results folder, `verify`, tables, lists and status see the same, name what is wrong, and show the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fake_logs import manifest
from fake_store import CERTIFY, N, add, run_spec, write_evidence

from bench.evidence import log
from bench.evidence.certificate import Certificate, from_line, to_line
from bench.evidence.columns import Columns
from bench.files import disk
from bench.files.writing import sha256, write_json
from bench.logs import import_logs
from bench.matrix.status import of_others, standings
from bench.spec import canonical, to_json
from bench.store.checkpoints import Checkpoint, CheckpointSpec, tensors_sha256
from bench.store.imports import Import
from bench.store.runs import Run, Store
from bench.verify import Report, verify
from leaderboard.aggregate import Group, collect

GIB = 1 << 30
LOGS = manifest("mnist/noise_0.5_*", row="gaussian", n=1000, images="first:4")


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """What hangs is a failure."""

    def fail(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def weigh(run: Run) -> str:
    """Weights of a run that has none."""
    metadata = {"certbench": canonical({"spec": to_json(run.spec), "key": run.spec.key})}
    run.path.mkdir(parents=True, exist_ok=True)
    run.weights.write_bytes(safetensors.numpy.save({"w": np.zeros(3, dtype=np.float32)}, metadata))
    return sha256(run.weights)


def complete(store: Store, row: str) -> Run:
    """A run with every file that one can have."""
    run = store.run(run_spec(row))
    weights = weigh(run)
    run = add(store, run.spec, None)
    write_json(run.path / "training.json", {"state": "trained", "steps": run.steps(), "weights_sha256": weights})
    write_json(run.path / "timing.json", {"training_seconds": 1.5, "images_per_second": 10.0, "pairs_per_image": 2})
    run.curve.write_text("epoch,loss\n1,0.5\n")
    certification = run.certification(CERTIFY)
    write_evidence(certification, (N, 990, 980, 970))
    write_json(certification.path / "environment.json", {"libraries": {"torch": "2"}, "history": [{"device": "x"}]})
    (certification.path / "times.csv").write_text("".join(f"{index},0.500000\n" for index in range(4)))
    return run


def certified(store: Store) -> Checkpoint:
    weights = safetensors.numpy.save({"w": np.ones(3, dtype=np.float32)})
    folder = store.root.parent
    (folder / "w").write_bytes(weights)
    spec = CheckpointSpec(dataset="mnist", sigma=0.5, arch="lenet", normalization="none", weights_sha256=sha256(folder / "w"))
    found = Store(store.root).checkpoint(spec)
    found.begin()
    found.keep(weights, "mine.pth", "mine")
    assert found.origin().tensors_sha256 == tensors_sha256(weights)
    write_evidence(found.certification(CERTIFY), (N, 990, 980, 960))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, a checkpoint and two imported logs, whole."""
    folder = tmp_path_factory.mktemp("made")
    store = Store(folder / "runs")
    for row in ("gaussian", "macer"):
        complete(store, row)
    certified(store)
    for run in (1, 2):
        place = folder / "logs" / "mnist" / f"noise_0.5_{run}"
        place.parent.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{i}\t{label}\t{label}\t0.{run}\t1\t0.1\n" for i, label in enumerate((7, 2, 1, 0)))
        place.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + rows)
    assert len(import_logs(folder / "logs", store.root, LOGS).read) == 2
    assert verify(store.root).failures == []
    return store.root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(Path(shutil.copytree(made, tmp_path / "runs")))


def numbers(groups: tuple[Group, ...]) -> dict[tuple[str, str, int | str], str]:
    """Every training that has numbers, with them."""
    return {
        (group.source, row.name, seed.seed): repr(seed.outcomes.values.tolist())
        for group in groups
        for section in group.sections
        for row in section.rows
        for seed in row.seeds
        if seed.outcomes is not None
    }


def look(store: Store) -> tuple[Report, dict[tuple[str, str, int | str], str], str]:
    """What every reader says: the report, the numbers of tables, and all that tables, lists and status say besides."""
    report, groups = verify(store.root), collect(Store(store.root))
    rows = [*standings(Store(store.root)), *of_others(Store(store.root), "checkpoints")]
    told = [note for group in groups for note in (*group.notes, *group.footnotes)]
    told += [f"{row['state']} {row['reason']}" for row in rows]
    json.dumps(rows)
    return report, numbers(groups), "\n".join(told)


# ------------------------------------------------------------------------------------------- anything in the place of any file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(40 * GIB)


def mute(path: Path) -> None:
    path.write_bytes(path.with_name("before").read_bytes() if path.with_name("before").exists() else b"")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")


OTHERS: dict[str, Callable[[Path], object]] = {
    "pipe": pipe,
    "socket": a_socket,
    "device": device,
    "folder": folder,
    "sparse": sparse,
    "unreadable": mute,
    "link to an endless file": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
}
"""What is no file, or none that can be read: never accepted."""
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "no UTF-8": b'{"a":"\xff\xfe"}\n',
    "NUL": b"\0" * 4096,
    "nested": b"[" * 200_000,
    "nested objects": b'{"a":' * 50_000,
    "a number of 9,000 digits": b'{"schema":' + b"9" * 9_000 + b"}",
    "infinite": b'{"schema":1e999}',
    "NaN": b'{"schema":NaN}',
    "twice": b'{"schema":1,"schema":1}',
    "surrogate": b'{"schema":"\\ud800"}',
    "list": b"[]",
    "one long line": b"7" * (3 << 20),
    "many lines": b"7\n" * 50_000,
}
ENDLESS = 300_000
FILES = {
    "run": [
        "spec.json",
        "training.json",
        "timing.json",
        "environment.json",
        "curve.csv",
        "weights.safetensors",
        "failure.json",
        "dataset.json",
        "checkpoint.bin",
        "checkpoint.older.bin",
        "claim-1.json",
    ],
    "certification": ["spec.json", "subject.json", "evidence.jsonl", "environment.json", "times.csv"],
    "checkpoint": ["subject.json", "origin.json", "weights.safetensors"],
    "import": ["spec.json", "rows.tsv"],
}
UNREAD = {"claim-1.json", "checkpoint.bin", "checkpoint.older.bin", "dataset.json"}
"""No number rests on what is in them."""
LEFT_ALONE = {("certification", "times.csv", "empty"), ("certification", "times.csv", "many lines")}
"""As a disk may leave them that was full."""
KEY = {"run": ("runs", "gaussian", 0), "checkpoint": ("checkpoints", "mine", "0"), "import": ("imported", "gaussian", "1")}


def place_of(store: Store, kind: str) -> Path:
    if kind in ("run", "certification"):
        run = next(run for run in store.runs() if run.spec.method == "gaussian")
        return run.path if kind == "run" else run.certification(CERTIFY).path
    if kind == "checkpoint":
        return next((store.root / "checkpoints").glob("*/*/*"))
    return next((store.root / "imported").glob("*/*/0.5-1-*"))


@pytest.mark.parametrize("what", [*OTHERS, *TEXTS])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FILES.items() for name in names])
def test_whatever_is_in_the_place_of_a_file(store: Store, kind: str, name: str, what: str) -> None:
    _, before, _ = look(store)
    path = place_of(store, kind) / name
    if what == "unreadable" and path.exists():
        shutil.copy(path, path.with_name("before"))
    path.unlink(missing_ok=True)
    OTHERS[what](path) if what in OTHERS else path.write_bytes(TEXTS[what])
    report, found, told = look(store)
    mine = KEY["run" if kind == "certification" else kind]
    others = {key: value for key, value in before.items() if key != mine}
    assert found.items() >= others.items(), "the rest is there"
    if (what in TEXTS or what in ("sparse", "unreadable")) and (name in UNREAD or (kind, name, what) in LEFT_ALONE):
        assert report.failures == []
        return
    assert report.failures, "verify refuses it"
    assert any(fault.file == path for fault in report.failures), [str(fault) for fault in report.failures]
    assert mine not in found, "no number rests on it"
    assert str(path) in told, "tables, lists and status name it"


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("place", ["", "mnist", "mnist/gaussian.default", "imported", "checkpoints/mnist", ".matrix"])
def test_strange_things_beside_runs(store: Store, place: str, what: str) -> None:
    _, before, _ = look(store)
    (store.root / place).mkdir(exist_ok=True)
    path = store.root / place / ("x.json" if place == ".matrix" else "strange")
    OTHERS[what](path)
    report, found, told = look(store)
    assert found == before
    if place != ".matrix" and what not in ("folder", "sparse", "unreadable"):
        assert [fault.file for fault in report.failures] == [path]
        assert str(path) in told
    else:
        assert report.failures == []


def test_names_that_the_suite_leaves_are_expected_and_others_are_named(store: Store) -> None:
    run = place_of(store, "run")
    for path in (store.root / ".replaced" / "x", store.root / ".matrix"):
        path.mkdir(parents=True)
    for path in (
        run / "claim-3.json",
        run / ".spec.json.77.tmp",
        store.root / "README.md",
        run / "certify-0123456789abcdef" / ".spec.json.1.tmp",
    ):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    report, found, told = look(store)
    assert (report.failures, report.unexpected, len(found)) == ([], [], 5)
    names = [store.root / ".index.json", run / "columns.bin", run / "notes.txt", run.parent / "über \x1b[31m"]
    names.append(place_of(store, "certification") / "columns.bin")
    for path in names:
        path.write_bytes(b"x")
    report, found, told = look(store)
    assert sorted(fault.file for fault in report.unexpected) == sorted(names)
    assert (report.failures, len(found)) == ([], 5)
    assert "unexpected: " in told


def test_a_name_that_is_no_text_is_named(bench: Callable[..., Any], store: Store) -> None:
    (store.root / "mnist" / os.fsdecode(b"\xff\xfe")).symlink_to("/")
    for words in (("verify", store.root), ("verify", store.root, "--json"), ("table",), ("list", "runs", "--json"), ("status", "--json")):
        result = bench(*words, *(() if words[0] == "verify" else ("--results", store.root)))
        assert isinstance(result.exception, SystemExit | None), result.exception


@pytest.mark.parametrize("what", ["dot", "link", "link to a parent", "deep", "file"])
def test_runs_in_strange_places(store: Store, what: str) -> None:
    """A forged run is not shown because it hides from a reader that skips it, nor through a link."""
    _, before, _ = look(store)
    run = next(run for run in store.runs() if run.spec.method == "gaussian")
    write_evidence(run.certification(CERTIFY), (N, N, N, N))
    home = run.path.parent
    if what == "dot":
        home.rename(home.with_name(".gaussian.default"))
        named = home.with_name(".gaussian.default")
    elif what == "deep":
        named = store.root / "/".join("abcdefghijklmnopq")
        named.parent.mkdir(parents=True)
        home.rename(named)
        named = store.root / "a/b/c/d/e/f/g/h/i/j/k/l/m"
    else:
        elsewhere = store.root.parent / "elsewhere"
        run.path.rename(elsewhere)
        named = run.path
        if what == "link":
            named.symlink_to(elsewhere)
        elif what == "link to a parent":
            home.rmdir()
            elsewhere.mkdir(exist_ok=True)
            home.symlink_to(elsewhere.parent)
            named = home
        else:
            named.touch()
    report, found, told = look(store)
    assert found == {key: value for key, value in before.items() if key != KEY["run"]}
    faults = [fault.file for fault in (*report.failures, *report.unexpected)]
    assert named in faults
    assert str(named) in told


# ----------------------------------------------------------------------------------------------------- forgers, and broken disks


def forged(row: Certificate, rng: random.Random) -> Certificate | None:
    """A row of which something is another, written as the suite writes it; None if it would not write it."""
    field = rng.choice(["index", "label", "selected", "selection", "estimation"])
    number = rng.choice([0, 1, 3, 5, 9, 10, 999, 1001, 2**31 - 1, 2**31, 10**12, 10**40, -1])
    value: Any = number
    if field in ("selection", "estimation"):
        value = dict(getattr(row, field))
        value[rng.choice([*value, number])] = rng.choice([number, 1, 7])
    made = object.__new__(Certificate)  # a forger does not stop at what the suite's own class refuses
    for name in ("index", "label", "selected", "selection", "estimation"):
        object.__setattr__(made, name, value if name == field else getattr(row, name))
    return made if made != row else None


def test_what_verify_refuses_no_table_takes(store: Store) -> None:
    """Whatever is changed in evidence with check sums that fit; a change that passes gives the table what evidence now says."""
    rng = random.Random(0)
    _, before, _ = look(store)
    certification = next(run for run in store.runs() if run.spec.method == "gaussian").certification(CERTIFY)
    lines = certification.evidence.read_text().splitlines(keepends=True)
    refused = passed = 0
    for _ in range(150):
        changed = list(lines)
        place = rng.randrange(len(lines))
        how = rng.randrange(8)
        if how == 0:
            changed.pop(place)
        elif how == 1:
            changed.insert(rng.randrange(5), rng.choice(lines))
        elif how == 2:
            rng.shuffle(changed)
        elif how == 3:
            changed[-1] = changed[-1][: rng.randrange(len(changed[-1]))]
        elif row := forged(from_line(lines[place].encode()), rng):
            changed[place] = to_line(row)
        certification.evidence.write_text("".join(changed))
        report, groups = verify(certification.subject.path), numbers(collect(store))
        assert (KEY["run"] in groups) == (not report.failures and not report.unfinished), "".join(changed)
        assert groups.items() >= {key: value for key, value in before.items() if key != KEY["run"]}.items()
        refused, passed = refused + bool(report.failures), passed + (KEY["run"] in groups)
    assert refused > 60
    assert passed


def test_any_flipped_byte_is_seen_by_both_or_by_neither(store: Store) -> None:
    """Of any file that a number rests on; weights are read by `verify` alone."""
    rng = random.Random(1)
    _, before, _ = look(store)
    files = [path for path in sorted(store.root.rglob("*")) if path.is_file() and path.name not in ("weights.safetensors", "origin.json")]
    for _ in range(120):
        path = rng.choice(files)
        content = path.read_bytes()
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        report, found, told = look(store)
        lost = before.keys() - found.keys()
        assert len(lost) <= 1
        if report.failures:
            assert lost, [str(fault) for fault in report.failures]
            assert any(str(fault.file) in told for fault in report.failures)
        else:
            assert not lost
        path.write_bytes(content)


def test_a_certification_that_is_being_written_is_unfinished(store: Store) -> None:
    """At any byte of its log, and with a time ahead of its row."""
    certification = next(run for run in store.runs() if run.spec.method == "gaussian").certification(CERTIFY)
    content, times = certification.evidence.read_bytes(), certification.path / "times.csv"
    for size in range(0, len(content), 7):
        done = content.count(b"\n", 0, size)
        certification.evidence.write_bytes(content[:size])
        for ahead in (0, 1):
            times.write_text("".join(f"{index},0.500000\n" for index in range(min(4, done + ahead))) + "3,0."[: size % 5])
            report, found, told = look(store)
            assert report.failures == []
            assert (KEY["run"] in found) == (size == len(content))
            assert "damaged" not in told
    certification.evidence.unlink()
    times.write_text("".join(f"{index},0.500000\n" for index in range(4)))
    report, _, told = look(store)
    assert [fault.file for fault in report.failures] == [certification.evidence], "times of rows that are gone"
    assert str(certification.evidence) in told


def test_a_run_that_vanishes_while_it_is_read_is_no_traceback(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place_of(store, "run")
    read = disk.read

    def vanish(path: Path, limit: int | None = None) -> bytes:
        if path.name == "training.json" and run in path.parents:
            shutil.rmtree(run, ignore_errors=True)
        return read(path, limit)

    monkeypatch.setattr(disk, "read", vanish)
    groups = collect(store)
    assert KEY["run"] not in numbers(groups)
    assert len(numbers(groups)) == 4
    verify(store.root)
    standings(store)


def test_more_lines_than_images_are_not_read_to_their_end(store: Store) -> None:
    evidence = place_of(store, "certification") / "evidence.jsonl"
    evidence.write_bytes(evidence.read_bytes() * ENDLESS)
    report, found, _ = look(store)
    assert KEY["run"] not in found
    assert len(report.failures) < 60_000
    assert "was not read" in str(report.failures[-1])


def test_the_documented_limits_are_those_that_hold() -> None:
    rows = (Path(__file__).parents[1] / "docs" / "notes" / "verification.md").read_text().splitlines()

    def size(limit: int) -> str:
        return next(f"{limit >> bits} {unit}" for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)) if limit >> bits)

    words = {"claim": "a claim;", "announcement": "a file in `.matrix`"}
    for name, limit in {**disk.LIMITS, "spec.json": disk.OTHERS}.items():
        (row,) = [row for row in rows if row.startswith("| ") and words.get(name, f"`{name}`") in row and row.rstrip(" |").endswith("iB")]
        assert size(limit) in row, name


def test_one_damaged_import_hides_nothing(store: Store) -> None:
    _, before, _ = look(store)
    path = place_of(store, "import") / "rows.tsv"
    path.write_bytes(path.read_bytes().replace(b"0.1", b"0.2"))
    report, found, told = look(store)
    assert found == {key: value for key, value in before.items() if key != KEY["import"]}
    assert [fault.file for fault in report.failures] == [path]
    assert f"{path}: SHA-256 is" in told


def test_a_forged_import_with_its_check_sum_is_refused_by_tables_too(store: Store) -> None:
    entry = next(store.subjects(Import))
    for old, new in (
        (b"0\t7\t7\t0.1", b"0\t7\t7\t3.1"),
        (b"0\t7\t7", b"0\t8\t8"),
        (b"0\t7", b"99999999999999999999\t7"),
        (b"\n1\t2", b"\n\n1\t2"),
    ):
        data = entry.file.read_bytes().replace(old, new, 1)
        assert data != entry.file.read_bytes()
        (store.root.parent / "rows").write_bytes(data)
        spec = dataclasses.replace(entry.spec, rows_sha256=sha256(store.root.parent / "rows"))
        place = store.root / Import.place(spec)
        place.mkdir(parents=True)
        (place / "rows.tsv").write_bytes(data)
        write_json(place / "spec.json", to_json(spec))
        report, found, told = look(store)
        assert [fault.file for fault in report.failures] == [place / "rows.tsv"], (new, [str(fault) for fault in report.failures])
        assert str(place / "rows.tsv") in told
        assert len(found) == 5
        shutil.rmtree(place)


def test_timing_that_cannot_be_is_refused(store: Store) -> None:
    path = place_of(store, "run") / "timing.json"
    honest = json.loads(path.read_text())
    for name, value in (
        ("training_seconds", -1),
        ("pairs_per_image", "2"),
        ("images_per_second", 1e300),
        ("attack_share", "x"),
        ("pairs_per_image", None),
    ):
        write_json(path, honest | {name: value})
        report, found, told = look(store)
        assert [fault.file for fault in report.failures] == [path]
        assert KEY["run"] not in found
        assert str(path) in told


# ----------------------------------------------------------------------------------------------------------- lines by arrays


def rows_of(rng: random.Random, many: int) -> list[Certificate]:
    def counts(classes: int) -> dict[int, int]:
        most = rng.choice([10, 200, 2**31])
        return {rng.randrange(most): rng.choice([1, 2, 999, 10 ** rng.randint(0, 7)]) for _ in range(classes)}

    rows = []
    for index in range(many):
        selection = counts(rng.choice([1, 2, 5, 30]))
        selected = min(selection, key=lambda c: (-selection[c], c))
        estimation = counts(rng.randint(0, 9))
        rows.append(
            Certificate(
                index=index,
                label=selected if estimation else (selected + 1) % 10**6,
                selected=selected,
                selection=selection,
                estimation=estimation,
            )
        )
    return rows


def test_arrays_take_what_the_suite_writes_and_nothing_else() -> None:
    rng = random.Random(0)
    rows = [row for row in rows_of(rng, 2000) if row.estimation or row.label != row.selected]
    text = "".join(map(to_line, rows)).encode()
    places, columns = log.by_arrays(text)
    assert places.tolist() == list(range(len(rows)))
    wanted = Columns.of(rows)
    for field in dataclasses.fields(wanted):
        assert np.array_equal(getattr(columns, field.name), getattr(wanted, field.name)), field.name
    accepted = 0
    for _ in range(4000):
        line = bytearray(to_line(rng.choice(rows[:50]))[:-20].encode() + b"}")
        for _ in range(rng.randint(1, 2)):
            place, byte = rng.randrange(len(line)), rng.choice(b'0123456789,:"{}n')
            line[place : place + rng.randint(0, 1)] = bytes([byte])
        sealed = bytes(line[:-1]) + b',"~crc":"%08x"}\n' % zlib.crc32(bytes(line))
        try:
            exact = [from_line(sealed)]
        except ValueError:
            exact = []
        places, columns = log.by_arrays(sealed)
        assert len(places) == len(exact), sealed
        if exact:
            accepted += 1
            assert all(np.array_equal(getattr(columns, f.name), getattr(Columns.of(exact), f.name)) for f in dataclasses.fields(columns))
    assert accepted > 100
