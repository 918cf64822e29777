"""The page of `bench site`: its numbers are the API's, its script computes what Python computes, and names from files stay text."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_logs import MANIFEST, write_log
from fake_store import CERTIFY, N, add, new_store, run_spec
from numpy.typing import NDArray
from test_foreign import foreign
from typer.testing import Result

import bench as api
from bench import rules
from bench.errors import BenchError
from bench.logs import import_logs
from bench.rules.rule import Counts
from bench.spec import CertifySpec
from bench.store.runs import Store
from leaderboard.compare import compare
from leaderboard.site import Content, changelog, earlier, read, render
from leaderboard.site.content import METRICS, RECOMPUTED, ranks
from leaderboard.site.page import text_of

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def content() -> Content:
    return read(Store(REFERENCE))


@pytest.fixture(scope="module")
def page(content: Content) -> str:
    return render(content)


def embedded(page: str) -> Any:
    return json.loads(page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])


def unpacked(text: str, kind: str = "<i4") -> NDArray[Any]:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(np.dtype(kind).itemsize, -1)
    return np.ascontiguousarray(planes.T).view(kind).ravel()


def test_every_number_in_the_page_is_the_apis(page: str) -> None:
    """Statistics, statuses, notes and ties of every row, under every rule; and the statistics once more from `bench.summary`."""
    data, checked = embedded(page), 0
    for rule in (None, "two-sided"):
        frame = api.load_results(REFERENCE, rule=rule)
        wanted = json.loads(api.table(frame, "json", metrics=METRICS, marks="test", constant=True))["groups"]
        summary = api.summary(frame, METRICS)
        tables = [table for table in data["tables"] if (table["rule"] == "two-sided") == (rule is not None)]
        assert len(tables) == len(wanted)
        for number, (table, group) in enumerate(zip(tables, wanted, strict=True), start=1):
            assert (table["ties"], table["dataset"]) == (group["ties"], group["dataset"])
            assert [section["sigma"] for section in table["sections"]] == [section["sigma"] for section in group["sections"]]
            for section, other in zip(table["sections"], group["sections"], strict=True):
                rows = {row["label"]: row for row in other["rows"]}
                assert rows.keys() == {row["label"] for row in section["rows"]}
                for row in section["rows"]:
                    same = rows[row["label"]]
                    assert row["stats"] == same["metrics"]
                    assert [row[k] for k in ("status", "notes", "tied", "constant")] == [
                        same[k] for k in ("status", "notes", "tied", "constant")
                    ]
                    assert (row["state"] or "done") == same["state"]
                    lines = summary[
                        (summary["table"] == number) & (summary["sigma"] == section["sigma"]) & (summary["row"] == row["label"])
                    ]
                    told = {str(x["metric"]).removeprefix("r="): (x["mean"], x["std"], x["n"]) for x in lines.to_dict("records") if x["n"]}
                    own = {k: (s["mean"], np.nan if s["std"] is None else s["std"], s["n"]) for k, s in row["stats"].items()}
                    np.testing.assert_equal({} if row["constant"] else own, told)
                    checked += len(own)
    assert checked > 800


def test_every_count_in_the_page_is_the_frames(page: str) -> None:
    data, frame = embedded(page), api.load_results(REFERENCE)
    parts = dict(list(frame.groupby(["key", "certification"], observed=True)))
    seen = set()
    for table in data["tables"]:
        index, labels = unpacked(table["index"]), unpacked(table["labels"])
        for training in (t for s in table["sections"] for row in s["rows"] if not row["constant"] for t in row["trainings"] if t["images"]):
            part, images = parts[training["key"], training["certification"]].sort_values("image"), data["images"][training["images"]]
            count, right = unpacked(images["count"]), part["selected"].to_numpy() == part["label"].to_numpy()
            assert (np.where(count < 0, ~count, count) == part["count"]).all()
            assert ((count >= 0) == right).all()
            assert (unpacked(images["runner_up"]) == part["runner_up"]).all()
            assert (part["n"] == images["n"]).all()
            assert (index == part["image"]).all()
            assert (labels == part["label"]).all()
            seen.add((training["key"], training["certification"]))
        for row in (row for s in table["sections"] for row in s["rows"] if row["hardest"]):
            part = parts[row["trainings"][0]["key"], row["trainings"][0]["certification"]].set_index("image")
            for image in row["hardest"]:
                own = part.loc[image["image"]]
                assert [image[k] for k in ("label", "selected", "count", "n")] == [own[k] for k in ("label", "selected", "count", "n")]
                assert table["rule"] != "clopper-pearson" or image["radius"] == own["radius"] * own["correct"]
    assert seen == set(parts)


def test_every_difference_in_the_page_is_that_of_bench_compare(page: str) -> None:
    checked = 0
    for table in embedded(page)["tables"]:
        pairs = {(section["sigma"], pair["a"], pair["b"]): pair for section in table["sections"] for pair in section["pairs"]}
        if table["protocol"] == "full" and pairs:
            a = table["sections"][0]["rows"][0]["label"]
            others = sorted({b for _, first, b in pairs if first == a})
            for found in compare(Store(REFERENCE), a, others, protocol="full", rule=table["rule"]).comparisons:
                for name in ("difference", "low", "high", "more_a", "more_b", "tie"):
                    assert pairs[found.sigma, a, found.b][name] == getattr(found.images, name), name
                checked += 1
    assert checked == 18


def test_the_table_that_one_sees_has_the_embedded_numbers(page: str, tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for seed, counts in enumerate(((100, 100, 90, 100), (100, 100, 100, 60))):
        add(store, run_spec("gaussian", seed=seed), counts)
    for text in (page, render(read(store))):
        for table, row in [(t, row) for t in embedded(text)["tables"] for section in t["sections"] for row in section["rows"]]:
            line = text.partition(f'data-row="{row["id"]}"')[2].partition("</tr>")[0]
            found = re.findall(r'<td data-metric="([^"]*)"[^>]*>(.*?)</td>', line, re.S)
            decimals = {metric["name"]: metric["decimals"] for metric in table["metrics"]}
            shown = {name: s for name, s in row["stats"].items() if name in ("ACR", "clean", "pairs", *table["radii"])}
            printed = {name: f"{s['mean']:.{decimals[name]}f}" for name, s in shown.items() if name not in row["beyond"]}
            assert all(row["stats"][name]["mean"] == 0 for name in row["beyond"])
            if "ACR" in shown and shown["ACR"]["std"] is not None:
                printed["ACR"] += f" ± {shown['ACR']['std']:.4f} ({shown['ACR']['n']})"
            cells = {name: re.sub("<[^>]*>", "", cell).strip() for name, cell in found}
            assert {name: cell for name, cell in cells.items() if cell != "–"} == printed


def test_a_rank_interval_holds_the_rank_and_what_the_test_leaves() -> None:
    rng = np.random.default_rng(0)
    for size in range(2, 9):
        p = rng.uniform(0, 0.1, (size, size))
        found = ranks(size, np.maximum(p, p.T))
        assert all(low <= place <= high for place, ((low, high), _) in enumerate(found, start=1))
        assert [band for _, band in found] == sorted(band for _, band in found)
        assert ranks(size, np.ones((size, size))) == ranks(size, None) == [((1, size), 0)] * size
        assert ranks(size, np.zeros((size, size))) == [((n, n), n - 1) for n in range(1, size + 1)]


def grid() -> list[tuple[int, int, int, float]]:
    """count, n, runner-up, alpha."""
    rng = np.random.default_rng(1)
    found = []
    for n in (1, 2, 10, 100, 1_000, 10_000, 100_000):
        counts = {0, 1, n - 1, n // 2, n // 2 + 1, n, *rng.integers(0, n + 1, 6).tolist(), *(n - rng.integers(0, n // 50 + 1, 4)).tolist()}
        found += [(c, n, int(rng.integers(0, n - c + 1)), a) for c in sorted(counts) for a in (1e-9, 1e-5, 0.001, 0.05, 0.3, 0.499)]
    return found


def check_radii(found: list[list[float | None]], cases: list[tuple[int, int, int, float]], sigma: float) -> None:
    """found: radius by clopper-pearson and two-sided, None for abstain, as the script gives them."""
    two_sided = rules.named("two-sided")(CertifySpec(n0=1, n=1))
    for (count, n, other, alpha), (one, two) in zip(cases, found, strict=True):
        wanted = api.certified_radius(count, n, alpha, sigma)
        assert abs((one or 0.0) - wanted) <= 1e-9
        wanted = float(two_sided.radii(Counts(np.array([count]), np.array([n]), np.array([other])), alpha, sigma)[0])
        assert np.isnan(wanted) == (two is None)
        assert two is None or abs(two - wanted) <= 1e-9


def test_the_script_computes_the_radii_of_python() -> None:
    if not (node := shutil.which("node")):
        pytest.skip("no node here; tests/test_site_browser.py asks a browser the same")
    script = text_of("certificate.js") + (
        'const cases = JSON.parse(require("fs").readFileSync(0));'
        f"const read = ([c, n, other, alpha]) => {json.dumps(RECOMPUTED)}.map((rule) => RULES[rule](c, n, other, alpha, 0.5)[0]);"
        "console.log(JSON.stringify(cases.map(read)));"
    )
    cases = grid()
    done = subprocess.run([node, "-e", script], input=json.dumps(cases), capture_output=True, text=True, check=True)
    check_radii(json.loads(done.stdout), cases, 0.5)


class Elements(HTMLParser):
    """Names and attributes of the elements of a page, and the texts of its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style") and self.cdata_elem:
            self.raw.append(data)


def hostile(folder: Path) -> Content:
    """Results whose texts want to be more than texts; the reader lets no such name of a row pass, so that one is put in behind it."""
    store = new_store(folder)
    environment = {
        "method_sha256": "a" * 64,
        "device": f"</script>{HOSTILE}",
        "suite": {"commit": '"><script>alert(1)</script>', "dirty": True},
    }
    for row in ("gaussian", "stability", "macer"):
        add(store, run_spec(row), environment=environment)
    content = read(store, title=f"</title>{HOSTILE}\x1b[2J")
    for table in content.data["tables"]:
        for section in table["sections"]:
            section["rows"][1]["label"] = HOSTILE
            section["pairs"] = []
    return content


def test_texts_from_files_stay_texts(tmp_path: Path, page: str) -> None:
    content, reference = hostile(tmp_path), page
    page = render(content)
    assert "\x1b" not in page
    elements = Elements(page)
    assert {tag for tag, _ in elements.found} <= {tag for tag, _ in Elements(reference).found}
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert tag != "img" or str(attributes["src"]).startswith("data:image/png;base64,")
        assert not str(attributes.get("href", "#")).startswith(("http", "//", "javascript"))
    style, *scripts = elements.raw
    assert len(scripts) == 3, "what runs first, the data, and the script"
    assert json.loads(scripts[1])["title"] == content.data["title"]
    policy = next(
        str(attributes["content"]) for _, attributes in elements.found if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules_of = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert (rules_of["default-src"], rules_of["img-src"]) == ("'none'", "data:")
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (style, scripts[0], scripts[2])]
    assert (rules_of["style-src"], rules_of["script-src"]) == (hashes[0], " ".join(hashes[1:]))


def test_the_command_writes_one_file_that_is_the_same_again(bench: Callable[..., Result], tmp_path: Path, page: str) -> None:
    assert len(page.encode()) < 5_000_000
    store, out = new_store(tmp_path), tmp_path / "page.html"
    for seed in (0, 1):
        add(store, run_spec("gaussian", seed=seed))
    result = bench("site", "--results", store.root, "--out", out)
    assert result.exit_code == 0, result.output
    assert out.read_text() == render(read(store))
    made = re.findall(r"Made by</h3>\s*<pre[^>]*>(.*?)</pre>", out.read_text(), re.S)
    assert made
    assert all([line.split("--seeds ")[1][:2] for line in lines.splitlines()] == ["0,", "1,"] for lines in made)
    for words in (
        (tmp_path / "nothing", "--out", out),
        ("--results", tmp_path / "nothing", "--out", out),
        (store.root, "--results", store.root, "--out", out),
        (store.root, "--out", tmp_path / "no" / "page.html"),
        (store.root, "--alpha", "0.5"),
    ):
        assert bench("site", *words).exit_code == 2
    assert out.read_text() == render(read(store))


def mixture(folder: Path) -> Store:
    """Own runs under three rules, imported logs and checkpoints, two trainings of some."""
    store = new_store(folder)
    sequence = CertifySpec(n0=10, n=N, images="first:4", rule="confidence-sequence")
    rungs = CertifySpec(n0=10, n=N, images="first:4", rule="rungs", radii="0,0.5", first_look=500)
    for row in ("gaussian", "macer"):
        for certify in (CERTIFY, sequence, rungs):
            add(store, run_spec(row), certify=certify)
        for number in (1, 2):
            log = folder / "logs" / ("plain" if row == "gaussian" else "other") / f"noise_0.5_{number}"
            write_log(log, [0.5, len(row) / 8, 0, number / 4])
            foreign(store, f"{row}{number}.pth", row)
    assert not import_logs(folder / "logs", store.root, MANIFEST, strict=True).refused
    return store


def test_runs_checkpoints_and_logs_stand_on_one_page_as_the_api_has_them(tmp_path: Path) -> None:
    store = mixture(tmp_path)
    data = embedded(render(read(store)))
    kinds = {(table["source"], table["rule"]): (table["recomputed"], table["ranked"]) for table in data["tables"]}
    assert kinds == {
        ("runs", "clopper-pearson"): (True, True),
        ("runs", "two-sided"): (True, True),
        ("runs", "confidence-sequence"): (False, False),
        ("runs", "rungs"): (False, False),
        ("checkpoints", "clopper-pearson"): (True, True),
        ("checkpoints", "two-sided"): (True, True),
        ("imported", "as printed"): (False, True),
    }
    frame = api.load_results(store.root)
    for table in data["tables"]:
        for row in (row for section in table["sections"] for row in section["rows"] if not row["constant"]):
            assert (row["rank"] is None) == (not table["ranked"])
            assert ("ACR" in row["stats"]) == (table["rule"] != "rungs")
            if table["rule"] == "two-sided" or "ACR" not in row["stats"]:
                continue
            mine = frame[(frame["source"] == table["source"]) & (frame["row"] == row["label"])]
            mine = mine if table["source"] == "imported" else mine[mine["rule"] == table["rule"]]
            wanted = [api.acr(part["radius"], part["correct"]) for _, part in mine.groupby("training", observed=True)]
            assert sorted(row["stats"]["ACR"]["values"]) == sorted(wanted)
            if not table["recomputed"]:
                found = [unpacked(data["images"][t["images"]]["values"], "<f8").mean() for t in row["trainings"]]
                np.testing.assert_allclose(found, row["stats"]["ACR"]["values"], rtol=1e-15)


def test_unfinished_and_refused_results_are_shown_as_such(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    add(store, run_spec("gaussian"))
    add(store, run_spec("stability"), counts=None, failure=True)
    add(store, run_spec("macer"), counts=(100, 100))
    content = read(store)
    (section,) = content.data["tables"][0]["sections"]
    found = {row["label"]: (row["state"], row["rank"], bool(row["stats"])) for row in section["rows"] if not row["constant"]}
    assert found == {"gaussian": ("", [1, 1], True), "stability": ("failed", None, False), "macer": ("2/4 images", None, False)}
    assert not any(t["images"] for row in section["rows"] if row["state"] for t in row["trainings"])
    assert "2/4 images" in render(content)


def test_the_changes_name_every_number_that_moved_and_why(bench: Callable[..., Result], tmp_path: Path) -> None:
    store, out = new_store(tmp_path), tmp_path / "page.html"
    for row in ("gaussian", "stability", "macer"):
        add(store, run_spec(row))
    assert bench("site", store.root, "--out", out).exit_code == 0
    first = earlier(out)
    assert (first["changelog"], bench("site", store.root, "--out", out).exit_code, earlier(out)) == ([], 0, first)
    shutil.rmtree(next(run.path for run in store.runs() if run.row == "macer"))
    shutil.rmtree(next(run.path for run in store.runs() if run.row == "stability"))
    add(store, run_spec("stability"), (90, 100, 100, 100))
    add(store, run_spec("gaussian", seed=1), (100, 100, 100, 60))
    add(store, run_spec("stability", seed=1), (100, 100, 100, 60))
    assert bench("site", store.root, "--out", out, "--why", "two seeds").exit_code == 0
    (entry,) = earlier(out)["changelog"]
    assert (entry["before"], entry["why"]) == (first["version"], "two seeds")
    told = {re.search(r"clopper-pearson, sigma 0.5, ([^:]*):", text)[1]: text for text in entry["moved"] if "clopper" in text}  # type: ignore[index]
    assert told["macer"].endswith("no longer there")
    assert "trainings 0, now 0, 1" in told["gaussian"]
    stats = {row["label"]: row["stats"] for row in first["tables"][0]["sections"][0]["rows"]}
    new = api.summary(api.load_results(store.root), METRICS)
    for line in new[(new["table"] == 1) & (new["row"] == "gaussian") & (new["n"] > 0)].to_dict("records"):
        name = str(line["metric"]).removeprefix("r=")
        digits = next(m["decimals"] for m in first["tables"][0]["metrics"] if m["name"] == name)
        was = stats["gaussian"][name]["mean"]
        moved = f"{was:.{digits}f} to {line['mean']:.{digits}f} ± {line['std']:.{digits}f}" in told["gaussian"]
        assert moved or (was, line["std"]) == (line["mean"], 0.0)
    assert bench("site", store.root, "--out", out, "--alpha", "0.01").exit_code == 0
    latest, kept = earlier(out)["changelog"]
    assert kept == entry
    assert all("read at alpha 0.01 in place of 0.001" in text for text in latest["moved"])
    before = copy.deepcopy(earlier(out))
    before["version"], before["tables"][0]["sections"][0]["rows"][0]["rank"] = "0" * 16, [1, 9]
    assert [text.partition(": ")[2] for text in changelog(before, earlier(out))[0]["moved"]] == [
        "rank 1–9 to 1–2; by the test, beside the other rows"
    ]


def test_a_page_that_is_none_is_neither_read_nor_replaced(bench: Callable[..., Result], tmp_path: Path) -> None:
    store = new_store(tmp_path)
    add(store, run_spec("gaussian"))
    content = read(store)
    whole = render(content)
    for text in (
        "my diary",
        whole.replace('"schema":1', '"schema":2'),
        whole.replace('"tables":[{', '"tables":[3,{'),
        whole.replace('"mean":', '"mean":"x","m":'),
    ):
        (tmp_path / "page.html").write_text(text)
        with pytest.raises(BenchError):
            earlier(tmp_path / "page.html")
        assert bench("site", store.root, "--out", tmp_path / "page.html").exit_code == 2
        assert (tmp_path / "page.html").read_text() == text
    content.data["changelog"] = [{"version": "0" * 16, "before": "../../../etc/pass", "why": "", "moved": []}]
    (tmp_path / "page.html").write_text(render(content))
    with pytest.raises(BenchError):
        earlier(tmp_path / "page.html")
    assert changelog(content.data | {"changelog": []}, content.data) == []


def test_a_folder_for_hosting_holds_its_evidence_and_its_earlier_versions(bench: Callable[..., Result], tmp_path: Path) -> None:
    store, out = new_store(tmp_path), tmp_path / "public"
    runs = [add(store, run_spec(row)) for row in ("gaussian", "stability")]
    assert bench("site", store.root, "--out", out).exit_code == 0
    index = (out / "index.html").read_text()
    links = [str(a["href"]) for tag, a in Elements(index).found if tag == "a" and str(a["href"]).startswith("evidence/")]
    assert len(links) == 4
    assert all((out / link).is_file() for link in links), "two runs under two rules"
    one, two = (api.load_results(folder).drop(columns=["record"]) for folder in (store.root, out / "evidence"))
    assert one.equals(two)
    add(store, run_spec("macer"))
    shutil.rmtree(runs[0].path)
    assert bench("site", store.root, "--out", out).exit_code == 0
    assert [path.read_text() for path in (out / "versions").iterdir()] == [index]
    assert {run.row for run in Store(out / "evidence").runs()} == {"stability", "macer"}
    assert [a["href"] for tag, a in Elements((out / "index.html").read_text()).found if "versions" in str(a.get("href"))] == [
        f"versions/{earlier(out / 'index.html')['changelog'][0]['before']}.html"
    ]
    assert bench("site", store.root, "--out", store.root).exit_code == 2, "a folder of something else"
