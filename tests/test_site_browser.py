"""The page of `bench site` in a real browser: headless Chromium, no network. Skipped where there is none; .ci/run installs one."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from test_site import REFERENCE, check_radii, embedded, grid, hostile, mixture

import bench as api
from bench.store.runs import Store
from leaderboard.site import read, render
from leaderboard.site.content import RECOMPUTED

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here; pip install 'certbench[browser]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe here; pip install 'certbench[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is chromium")

QUICK = "quick (certify.images=every:20)"
SHOWN = {"data": "mnist", "sigma": "0.5", "protocol": "full", "rule": "clopper-pearson"}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("site") / "page.html"
    file.write_text(render(read(Store(REFERENCE))))
    return file


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium: Any, page_file: Path) -> Iterator[Open]:
    """Opens the page; at the end nothing may have been asked of a network, and nothing said to the console."""
    contexts, said, asked = [], list[str](), list[str]()

    def call(fragment: str = "", file: Path = page_file, script: bool = True, quiet: bool = True, **options: Any) -> Any:
        options = {"viewport": {"width": 1280, "height": 800}, "offline": True} | options
        contexts.append(context := chromium.new_context(java_script_enabled=script, **options))
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        if quiet:
            tab.on("console", lambda message: said.append(message.text))
            tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
        tab.goto(f"file://{file}{fragment}")
        if script:
            settled(tab)
        return tab

    yield call
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file://", "data:image/png", "blob:"))] == []
    assert len({url.partition("#")[0] for url in asked if url.startswith("file:")}) == 1, "no file beside it"


def settled(tab: Any) -> None:
    """Waits until what was asked for is drawn; the page's policy forbids the evaluation that Playwright's own waiting needs."""
    for _ in range(1000):
        if tab.evaluate("document.documentElement.dataset.shown === String(turn)"):
            return
        tab.wait_for_timeout(20)
    raise TimeoutError(tab.url)


def fragment(tab: Any) -> dict[str, str]:
    return dict(parse_qsl(tab.url.partition("#")[2]))


def cells(tab: Any, metric: str) -> dict[str, str]:
    """Row -> what stands in a column of the table that is seen."""
    lines = tab.locator(".view.current tr.row")
    return {
        line.locator(".name").inner_text(): line.locator(f'[data-metric="{metric}"]').inner_text()
        for line in lines.all()
        if line.locator(f'[data-metric="{metric}"]').count()
    }


def test_it_opens_from_disk_and_its_switches_are_in_its_address(show: Open) -> None:
    tab = show()
    assert fragment(tab) == {}, "an address that nobody chose stays short"
    tab.locator("#switches").get_by_label("protocol").select_option(QUICK)
    settled(tab)
    tab.locator("#switches").get_by_label("sigma").select_option("1")
    settled(tab)
    tab.locator("#switches").get_by_label("certificate rule").select_option("two-sided")
    settled(tab)
    tab.locator(".view.current").get_by_text("Cost", exact=True).click()
    settled(tab)
    tab.locator(".view.current button.name").first.click()
    settled(tab)
    seen = fragment(tab)
    assert seen | {"data": "mnist", "protocol": QUICK, "sigma": "1", "rule": "two-sided", "view": "cost"} == seen
    other = show(f"#{tab.url.partition('#')[2]}")
    assert fragment(other) == seen
    for place in (".view.current table", ".view.current .panel .chart", ".view.current .compare", "#switches"):
        one, two = (
            re.sub(r'(row|curve s\d|chart) (lit|focus)"|class=""', r'\1"', t.locator(place).first.inner_html()) for t in (tab, other)
        )
        assert one == two
    assert other.locator(".view.current tr.more.open").count() == 1


def test_an_address_that_means_nothing_shows_the_first_table(show: Open) -> None:
    tab = show(
        "#" + urlencode({"data": "<img src=x onerror=alert(1)>", "sigma": "NaN", "view": "__proto__", "alpha": "7", "open": "</script>"})
    )
    assert tab.locator(".view.current").count() == 1
    assert tab.locator(".panel:visible .chart .curve").count() > 2


def test_the_keyboard_reaches_everything(show: Open) -> None:
    tab, reached = show("#" + urlencode(SHOWN)), set()
    name_of = "(e) => e.matches('button.name') ? 'row' : e.matches('select') ? e.parentNode.firstChild.data : e.type || e.tagName"
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate(f"({name_of})(document.activeElement)"))
    assert {"row", "data set", "sigma", "protocol", "certificate rule", "row A", "row B", "radio", "range", "button"} <= reached
    choice = tab.locator(".view.current").get_by_label("row A")
    choice.focus()
    for _ in range(2):
        before = choice.input_value()
        tab.keyboard.press("ArrowDown")
        settled(tab)
        assert choice.input_value() != before, "the choice is drawn anew, and the focus stays"
    name = tab.locator(".view.current button.name").first
    name.focus()
    assert tab.locator(".panel:visible .curve.lit").count() == 1, "a row in focus lights its curve"
    tab.keyboard.press("Enter")
    settled(tab)
    assert name.get_attribute("aria-expanded") == "true"
    assert tab.get_by_text("Made by").locator("visible=true").count() == 1


def test_every_table_of_every_source_and_rule_draws_every_chart(show: Open, tmp_path: Path) -> None:
    file = tmp_path / "mixture.html"
    file.write_text(render(read(mixture(tmp_path))))
    tab = show(file=file)
    for table in embedded(file.read_text())["tables"]:
        for view in ("curve", "cost", "envelope", "pa"):
            wanted = {"data": table["dataset"], "sigma": "0.5", "protocol": table["protocol"], "rule": table["rule"], "view": view}
            tab.evaluate("(hash) => { location.hash = hash; return new Promise((done) => setTimeout(done, 20)); }", urlencode(wanted))
            settled(tab)
            assert fragment(tab) == wanted
            drawn, said = tab.locator(".panel:visible .chart .curve").count(), tab.locator(".panel:visible figcaption").inner_text()
            assert drawn or re.match("Nothing is recorded|This evidence has no bound", said), (wanted, said)
            assert tab.locator(".compare:visible .chart").count() == table["ranked"]


def test_without_javascript_every_table_stands_there_with_a_curve(show: Open, page_file: Path) -> None:
    tab, data = show(script=False), embedded(page_file.read_text())
    sections = sum(len(table["sections"]) for table in data["tables"])
    assert tab.locator(".view > .pair > .scroll > table").locator("visible=true").count() == sections
    assert tab.locator(".panel .chart").locator("visible=true").count() == sections
    assert tab.locator(".panel .chart").first.locator("path.line").count() > 1
    tab.locator("summary").first.click()
    assert tab.get_by_text("Made by").first.is_visible()


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_its_width_and_axe_finds_nothing_serious(show: Open, width: int, scheme: str) -> None:
    open_rows = [("open", "macer"), ("open", "gaussian")]
    tab = show(
        "#" + urlencode([*SHOWN.items(), *open_rows]),
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    if (width, scheme) in ((360, "dark"), (1280, "light")):
        found = axe.Axe().run(tab, context={"exclude": [[".view:not(.current)"]]}).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []
    if width == 1280:
        assert tab.locator(".view.current table").first.bounding_box()["y"] < 400
        assert tab.locator(".panel:visible").bounding_box()["y"] < 400


@pytest.mark.parametrize("rule", RECOMPUTED)
def test_at_another_alpha_it_shows_what_python_computes(show: Open, rule: str) -> None:
    tab = show("#" + urlencode(SHOWN | {"rule": rule, "alpha": 0.01}))
    frame = api.load_results(REFERENCE, alpha=0.01, rule=rule)
    full = frame[(frame["protocol"] == "full") & (frame["sigma"] == 0.5)]
    summary = api.summary(full, ["ACR", "r=1.5"])
    for metric, column, digits in (("ACR", "ACR", 4), ("1.50", "r=1.5", 2)):
        wanted = {x["row"]: f"{x['mean']:.{digits}f}" for x in summary[summary["metric"] == column].to_dict("records") if x["n"]}
        assert len(wanted) == 4
        assert {row: text for row, text in cells(tab, metric).items() if "constant" not in row} == wanted
    tab.get_by_role("button", name="Reset").locator("visible=true").click()
    settled(tab)
    assert "alpha" not in fragment(tab)
    frame = api.load_results(REFERENCE, rule=rule)
    plain = api.summary(frame[(frame["protocol"] == "full") & (frame["sigma"] == 0.5)], ["ACR"])
    assert {row: text for row, text in cells(tab, "ACR").items() if "constant" not in row} == {
        x["row"]: f"{x['mean']:.4f}" for x in plain.to_dict("records")
    }


def test_its_radii_are_those_of_python(show: Open) -> None:
    cases = grid()
    script = (
        f"(cases) => cases.map(([c, n, other, alpha]) => {json.dumps(RECOMPUTED)}.map((rule) => RULES[rule](c, n, other, alpha, 0.5)[0]))"
    )
    check_radii(show().evaluate(script, cases), cases, 0.5)


def test_two_rows_are_compared_as_bench_compare_does(show: Open, bench: Callable[..., Any]) -> None:
    tab = show("#" + urlencode(SHOWN | {"a": "gaussian", "b": "macer"}))
    words = ("compare", "gaussian", "macer", "--sigma", "0.5", "--protocol", "full", "--results", REFERENCE, "--format", "json")
    (wanted,) = json.loads(bench(*words).stdout)["comparisons"]
    images, text = wanted["images"], tab.locator(".view.current .compare").inner_text()
    for value in ("difference", "low", "high"):
        assert f"{'+' if images[value] >= 0 else '−'}{abs(images[value]):.4f}" in text
    more_b, more_a, tie = (round(images[share] * images["images"]) for share in ("more_b", "more_a", "tie"))
    assert f"Of {images['images']} images, macer certifies {more_b} farther, gaussian {more_a}, and {tie} tie" in text
    tab.get_by_label("row A").locator("visible=true").select_option("macer")
    settled(tab)
    assert (fragment(tab)["a"], fragment(tab)["b"]) == ("macer", "gaussian"), "a row is never compared with itself"


def test_downloads_hold_every_number(show: Open, page_file: Path) -> None:
    tab, data = show(), embedded(page_file.read_text())

    def saved(name: str) -> str:
        with tab.expect_download() as download:
            tab.get_by_role("button", name=name).click()
        return str(Path(download.value.path()).read_text())

    assert json.loads(saved("JSON")) == data
    found = {
        tuple(line[k] for k in ("protocol", "rule", "sigma", "row", "metric")): line["mean"]
        for line in csv.DictReader(io.StringIO(saved("CSV")))
    }
    for table in data["tables"]:
        for section in table["sections"]:
            for row in section["rows"]:
                for metric in table["metrics"]:
                    text = found.pop((table["protocol"], table["rule"], f"{section['sigma']:g}", row["label"], metric["name"]))
                    assert (float(text) if text else None) == row["stats"].get(metric["name"], {}).get("mean")
    assert not found


def test_hostile_names_are_inert_and_the_policy_holds(show: Open, tmp_path: Path) -> None:
    file = tmp_path / "hostile.html"
    file.write_text(render(hostile(tmp_path)))
    for script in (True, False):
        tab = show(file=file, script=script)
        assert tab.locator('img:not([src^="data:image/png"])').count() == 0
        assert tab.get_by_text("<img src=x onerror=alert(1)>").first.is_visible()
    tab = show(file=file, quiet=False)  # the browser says what it blocks, on its console
    blocked = tab.evaluate(
        """async () => {
          const seen = [];
          document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
          document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hit = 1'>");
          document.body.insertAdjacentHTML("beforeend", "<a href='javascript:window.hit=1' id='link'>x</a>");
          const added = document.createElement("script"); added.textContent = "window.hit = 1"; document.body.append(added);
          document.getElementById("link").click();
          await fetch("http://127.0.0.1:9/").catch(() => 0);
          await new Promise((done) => setTimeout(done, 100));
          return [window.hit ?? null, seen.sort()];
        }"""
    )
    assert blocked[0] is None
    assert {"img-src", "connect-src", "script-src-elem"} <= set(blocked[1])
