"""`bench pull`: the right weights arrive, whatever a server does; anything else leaves the folder as it was."""

from __future__ import annotations

import http.client
import http.server
import io
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from fake_store import add, run_spec
from typer.testing import Result

from bench.errors import BenchError, UsageError
from bench.files import fetch
from bench.store.pull import pull, wanted
from bench.store.runs import Run, Store
from bench.store.submission import Listed, Submission

Call = Callable[..., Result]
LIMIT = 1000
LONG = 5 * LIMIT


class Server(http.server.BaseHTTPRequestHandler):
    """Does what the first part of the path says, with the key of a run as the weights of that run."""

    protocol_version = "HTTP/1.0"
    stopped = threading.Event()

    def do_GET(self) -> None:
        way, _, name = self.path.lstrip("/").partition("/")
        content = name.removesuffix("/weights.safetensors").removesuffix(".safetensors").rpartition("-")[2].encode()
        getattr(self, way)(content, name)

    def send(self, content: bytes, length: int | None = None, code: int = 200) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def good(self, content: bytes, name: str) -> None:
        self.send(content, len(content))

    def endless(self, content: bytes, name: str) -> None:
        self.send(content)  # no length told: it ends with the connection

    def by_key(self, content: bytes, name: str) -> None:
        self.send(content if "/" not in name else b"", len(content) if "/" not in name else 0, 200 if "/" not in name else 404)

    def truncated(self, content: bytes, name: str) -> None:
        self.send(content[:-3], len(content))

    def cut(self, content: bytes, name: str) -> None:
        self.send(content[:-3])

    def wrong(self, content: bytes, name: str) -> None:
        self.send(content[::-1], len(content))

    def absent(self, content: bytes, name: str) -> None:
        self.send(b"no", 2, 404)

    def broken(self, content: bytes, name: str) -> None:
        self.send(b"", 0, 500)

    def long(self, content: bytes, name: str) -> None:
        self.send(content, LONG)

    def longer_than_told(self, content: bytes, name: str) -> None:
        self.send(content + bytes(LONG))

    def nonsense(self, content: bytes, name: str) -> None:
        self.wfile.write(b"\0\1\2 what?\r\n\r\n")

    def leads(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.end_headers()

    def elsewhere(self, content: bytes, name: str) -> None:
        self.leads(f"/good/{name}")

    def to_a_file(self, content: bytes, name: str) -> None:
        self.leads("file:///etc/hostname")

    def to_ftp(self, content: bytes, name: str) -> None:
        self.leads("ftp://127.0.0.1/weights")

    def in_circles(self, content: bytes, name: str) -> None:
        self.leads(self.path)

    def hung(self, content: bytes, name: str) -> None:
        self.stopped.wait(20)

    def hung_midway(self, content: bytes, name: str) -> None:
        self.send(content[:5], len(content))
        self.wfile.flush()
        self.stopped.wait(20)

    def dripping(self, content: bytes, name: str) -> None:
        self.send(b"", len(content))
        for place in range(len(content)):
            if self.stopped.wait(0.05):
                return
            self.wfile.write(content[place : place + 1])
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


GOOD = ("good", "endless", "by_key", "elsewhere")
BAD = {
    "truncated": "ended after 13 of 16 bytes",
    "cut": "nothing is kept",
    "wrong": "nothing is kept",
    "absent": "has neither",
    "broken": "500",
    "long": "more than the 1,000",
    "longer_than_told": "goes on after the 1,000",
    "nonsense": "",
    "to_a_file": "",
    "to_ftp": "is not followed",
    "in_circles": "",
    "hung": "no answer for 0.2 seconds",
    "hung_midway": "no answer for 0.2 seconds",
    "dripping": "no answer for 0.2 seconds",
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        thread = threading.Thread(target=found.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        Server.stopped.set()
        found.shutdown()
        thread.join()
        found.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One run without weights; the SHA-256 that it records is that of its own key."""
    made = Store(tmp_path / "runs")
    add(made, run_spec())
    return made


def only(store: Store) -> Run:
    return next(store.runs())


def bring(store: Store, where: str) -> int | None:
    return pull(only(store), store.root, where, limit=LIMIT, seconds=0.2)


def names(store: Store) -> set[str]:
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*")}


@pytest.mark.parametrize("way", GOOD)
def test_what_is_recorded_arrives(store: Store, server: str, way: str) -> None:
    run = only(store)
    assert bring(store, f"{server}/{way}/") == 16
    assert run.weights.read_bytes() == run.key.encode()
    assert bring(store, f"{server}/broken") is None, "it is there, so nobody is asked"


@pytest.mark.parametrize("way", BAD)
def test_whatever_else_a_server_does_leaves_nothing(store: Store, server: str, way: str) -> None:
    before = names(store)
    with pytest.raises(BenchError) as caught:
        bring(store, f"{server}/{way}")
    assert BAD[way] in str(caught.value)
    assert names(store) == before
    assert bring(store, f"{server}/good") == 16, "the next try finds nothing in its way"


def test_the_list_of_a_submission_says_how_long_a_file_is(store: Store, server: str) -> None:
    run = only(store)
    name = run.weights.relative_to(store.root).as_posix()
    for length in (15, 17):
        Submission(files={}, elsewhere={name: Listed(bytes=length, sha256="0" * 64)}).write(store.root)
        if length == 15:
            with pytest.raises(BenchError, match="more than the 15"):
                bring(store, f"{server}/good")
    assert bring(store, f"{server}/good") == 16
    run.weights.unlink()
    Submission(files={}).write(store.root)
    with pytest.raises(BenchError, match="does not list"):
        bring(store, f"{server}/good")


def test_no_address_leads_from_https_to_http() -> None:
    asked = urllib.request.Request("https://example.org/weights")
    follow = partial(fetch._Redirects().redirect_request, asked, io.BytesIO(), 302, "Found", http.client.HTTPMessage())
    assert follow("https://example.com/weights")
    with pytest.raises(BenchError):
        follow("http://example.org/weights")


@pytest.mark.parametrize("form", ["place", "key", "address"])
def test_from_a_folder(store: Store, tmp_path: Path, form: str) -> None:
    run, there = only(store), tmp_path / "there (1)"
    path = there / (f"{run.key}.safetensors" if form == "key" else run.weights.relative_to(store.root))
    path.parent.mkdir(parents=True)
    path.write_bytes(run.key.encode())
    assert bring(store, there.as_uri() if form == "address" else str(there)) == 16
    assert run.weights.read_bytes() == run.key.encode()


def test_no_link_and_no_pipe_is_opened(store: Store, tmp_path: Path) -> None:
    run, there = only(store), tmp_path / "there"
    there.mkdir()
    (there / "real").write_bytes(run.key.encode())
    (there / f"{run.key}.safetensors").symlink_to("real")
    with pytest.raises(BenchError, match="link"):
        bring(store, str(there))
    assert not run.weights.exists()


def test_other_weights_are_left_alone(store: Store, server: str) -> None:
    run = only(store)
    run.weights.write_bytes(b"mine")
    with pytest.raises(BenchError, match="move that file away"):
        bring(store, f"{server}/good")
    assert run.weights.read_bytes() == b"mine"


def test_words_for_keys(store: Store) -> None:
    run = only(store)
    for words in ([], [run.key[:5]], [run.key[:5], run.key[:6]]):
        found, faults = wanted(store, words)
        assert ([one.key for one in found], faults) == ([run.key], [])
    (run.path / "training.json").write_text("{")
    assert [len(part) for part in wanted(store, [])] == [0, 1], "what cannot be read is told"
    with pytest.raises(UsageError):
        wanted(store, ["0000", ""])


@pytest.mark.parametrize(
    "where",
    [
        "",
        "ftp://host/x",
        "file://host/x",
        "http://",
        "https://user:word@host/x",
        "http://host/x?y=1",
        "/no/such",
        "http://a\nb",
        "http://host:port",
    ],
)
def test_what_is_no_place_is_a_sentence(bench: Call, store: Store, where: str) -> None:
    result = bench("pull", "--from", where, "--results", store.root)
    assert result.exit_code == 2, result.output
    assert "--from" in result.output


def test_the_command_says_what_came_and_what_did_not(bench: Call, store: Store, server: str) -> None:
    add(store, run_spec("macer"))
    keys = sorted(run.key for run in store.runs())
    result = bench("pull", keys[0], "--from", f"{server}/good", "--results", store.root)
    assert (result.exit_code, "1 of 1 run in" in result.output) == (0, True), result.output
    result = bench("pull", "--from", f"{server}/absent", "--results", store.root)
    assert (result.exit_code, "1 of 2 runs" in result.output) == (1, True), result.output
    assert f"{keys[0]}: its weights are there" in result.output
    assert "timeout" in bench("pull", "--from", f"{server}/good", "--timeout", "0", "--results", store.root).output


def test_pulled_weights_serve_every_command(bench: Call, two_cells: Path, tmp_path: Path) -> None:
    there, here = tmp_path / "there", Path(shutil.copytree(two_cells, tmp_path / "here"))
    for run in Store(here).runs():
        there.mkdir(exist_ok=True)
        run.weights.rename(there / f"{run.key}.safetensors")
    run = only(Store(here))
    few = ("--images", "first:1", "--n", "100", "--device", "cpu", "--results", here)
    commands: list[tuple[str | Path, ...]] = [
        ("certify", run.key, *few),
        ("predict", run.key, *few),
        ("attack", run.key, "--eps", "0.1", "--steps", "1", "--samples", "1", "--certification", first(run), *few),
        ("verify", here, "--recertify", "1", "--device", "cpu"),
    ]
    assert {bench(*words).exit_code for words in commands} == {1, 2}
    assert bench("pull", run.key, "--from", there, "--results", here).exit_code == 0
    for words in commands:
        result = bench(*words)
        assert result.exit_code == 0, result.output


def first(run: Run) -> str:
    return next(run.certifications()).spec.key
