"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import generated
import pytest
import torch
from typer.testing import CliRunner, Result

from bench.cli import app

TINY = [
    "--set", "train.images=first:64", "--set", "train.batch=32", "--set", "certify.images=first:3",
    "--set", "certify.n=200", "--set", "certify.n0=20", "--protocol", "smoke", "--device", "cpu",
]  # fmt: skip


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """A process per core for the whole suite; none to wait for where you name the tests."""
    return None if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and on a busy machine two threads that wait for each other are far slower."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept of results that were read and verified, apart from the user's own; also in the processes that tests start."""
    os.environ["BENCH_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["BENCH_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True, scope="session")
def signals_heard() -> None:
    """What a shell starts in the background may ignore Ctrl-C, and then so would every process that a test starts."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with a generated CIFAR-10 of 1,000 training images, a CIFAR-100 and a Fashion-MNIST."""
    root = tmp_path_factory.mktemp("made")
    generated.cifar10(root)
    generated.cifar100(root)
    generated.fashion_mnist(root)
    return root


@pytest.fixture(scope="session")
def bench() -> Callable[..., Result]:
    """Runs the command line in this process."""

    def call(*words: str | Path) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "NO_COLOR": "1"})

    return call


@pytest.fixture(scope="session")
def two_cells(bench: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of two cells of a second, to be copied."""
    folder = tmp_path_factory.mktemp("two") / "runs"
    result = bench("run", *TINY, "--results", folder, "--method", "gaussian", "--sigma", "0.25,0.5")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def tiny(bench: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    """`bench run` of cells of a second, into tmp_path/runs unless the words say where."""

    def call(*words: str | Path) -> Result:
        place = () if "--results" in words else ("--results", tmp_path / "runs")
        return bench("run", *TINY, *place, *words)

    return call
