"""The commands of README and guide run in the order in which they stand, and the README shows what they print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import DOCS, ROOT
from torch import nn
from typer.testing import Result

import bench as api
from bench import models
from bench.datasets import DATASETS

SHORT = "--set train.images=first:64,certify.images=first:3,certify.n0=10,certify.n=200"
DIGITS = re.compile(r"[\d+*~]+(\.\d+)?[+*~]*")

pytestmark = pytest.mark.slow


def commands(text: str) -> list[str]:
    """The lines of the blocks that are marked as shell commands."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.split("   #")[0] for block in blocks for line in block.splitlines() if line.startswith("bench ")]


def python_of(text: str) -> list[str]:
    """The blocks that use the API."""
    return [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if re.search(r"\bbench\.\w+\(", block)]


def shortened(line: str) -> str:
    """The same command with less to train and to count; cells in this process."""
    if line.startswith("bench run") and ("--dry-run" not in line or "--save-study" in line):
        short = "" if ".toml" in line and "--save-study" not in line else SHORT
        line = f"{line} {short}".replace("--seeds 5", "--seeds 2").replace(" --jobs auto", "")
    if line.startswith(("bench certify", "bench predict")):
        line = f"{re.sub(r'--n [0-9]+|--images [^ ]+', '', line)} --images first:3 --n 1000"
    return line


@pytest.mark.parametrize("page", sorted(path.stem for path in (DOCS / "guide").glob("*.md")))
def test_the_commands_of_a_page_run(page: str, bench: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    Path("results").mkdir()
    for folder in ("results/reference", "studies"):
        Path(folder).symlink_to(ROOT / folder)
    for seed, name in enumerate(("mine", "second")):
        torch.save({"arch": "lenet", "state_dict": models.build("lenet", DATASETS["mnist"], seed).state_dict()}, f"{name}.pth.tar")
    text = (DOCS / "guide" / f"{page}.md").read_text(encoding="utf-8")
    for line in commands(text):
        result = bench(*shlex.split(shortened(line))[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
    for block in python_of(text):
        if "results/runs" in block:  # of what the commands have left there
            exec(block, {})


def test_the_first_result_of_the_readme(bench: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands print the table that it shows, but for the numbers, which a machine's rounding may move, and their marks."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```text\n(.*?)```", readme[readme.index("## A first result") :], re.DOTALL)
    monkeypatch.chdir(tmp_path)
    outputs = [bench(*shlex.split(line)[1:]) for line in commands(readme)]
    assert [result.exit_code for result in outputs] == [0] * len(outputs)
    printed = "\n".join(result.output for result in outputs)
    for line in shown.splitlines():
        assert blanked(line) in {blanked(other) for other in printed.splitlines()}, line


@pytest.mark.parametrize("page", ["README.md", "docs/reference/python.md", "docs/guide/certify.md"])
def test_the_python_of_a_page_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a training, which the notebook runs."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = "\n".join(python_of((ROOT / page).read_text(encoding="utf-8")))
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    names = {"bench": api, "model": model, "images": images, "labels": torch.tensor([3, 5])}
    exec("\n".join(line for line in code.splitlines() if not line.startswith("bench.run(")), names)
    assert names.keys() > {"frame", "smoothed"}


def blanked(line: str) -> str:
    return " ".join(DIGITS.sub("0", re.sub(r", [\d.]+ (s|minutes)$", "", line)).split())
