"""The command line on the running service."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner, Result

from experimance import Client
from experimance.cli import app
from testing.server import ROOT, free_port
from tests.support.calls import PATIENCE, ServiceLog
from tests.support.forwarding_proxy import passing_on
from tests.support.images.pictures import hill
from tests.support.waiting import wait_until

DEPTH = ROOT / "docs" / "img" / "depth.png"
Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(service_url: str, folder: Path) -> Run:
    """The command inside this process, in an empty folder."""

    def invoke(*words: object, status: int = 0, url: str = service_url) -> Result:
        environment = {"MODEL_SERVER_URL": url, "COLUMNS": "200"}
        outcome = CliRunner().invoke(app, [str(word) for word in words], env=environment)
        assert outcome.exit_code == status, (outcome.stdout, outcome.stderr, outcome.exception)
        return outcome

    return invoke


@pytest.fixture
def start(service_url: str, folder: Path) -> Iterator[Start]:
    """The command as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: object, **environment: str) -> subprocess.Popen[str]:
        # In so many columns no message is broken into lines.
        own = {"PYTHONPATH": str(ROOT / "client"), "COLUMNS": "1000"}
        own["MODEL_SERVER_URL"] = service_url
        process = subprocess.Popen(
            [sys.executable, "-m", "experimance", *map(str, words)], text=True, cwd=folder,
            env={**os.environ, **own, **environment}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def service(service_url: str) -> Iterator[Client]:
    with Client(service_url) as made:
        yield made


@pytest.fixture
def log(service_url: str, service_log: Path) -> ServiceLog:
    return ServiceLog(service_log)


class Output:
    """The lines of a process's stream, read as they come."""

    def __init__(self, process: subprocess.Popen[str], stream: IO[str] | None) -> None:
        assert stream is not None
        self.lines: list[str] = []
        self._process, self._stream = process, stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self.lines.append(line)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, part: str) -> None:
        """Wait until the process has said something."""
        wait_until(lambda: part in self.text or self._process.poll() is not None, PATIENCE)
        assert part in self.text, self.text

    def to_the_end(self) -> str:
        self._thread.join()
        return self.text


def interrupt(process: subprocess.Popen[str]) -> int:
    """Press Ctrl-C, and wait for the status."""
    process.send_signal(signal.SIGINT)
    return process.wait(PATIENCE)


def test_generate_as_a_process(start: Start, folder: Path) -> None:
    process = start("generate", DEPTH, "-e", "ruins", "-s", 3, "--steps", 2, "-N", 2, "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["file"] for each in told] == ["depth-ruins-3.png", "depth-ruins-4.png"]
    assert [each["seed"] for each in told] == [3, 4]
    assert {each["era"] for each in told} == {"ruins"}
    assert Image.open(folder / "depth-ruins-4.png").size == (256, 256)
    # Without a terminal there are neither bars nor colours.
    assert "\x1b" not in err


def test_damaged_depth_map_does_not_stop_the_others(run: Run, folder: Path) -> None:
    (folder / "maps").mkdir()
    for name in ("a", "c"):
        Image.fromarray(hill(64, 64)).save(folder / "maps" / f"{name}.png")
    (folder / "maps" / "b.png").write_bytes(b"no picture")
    options = ("-p", "hills", "-s", 1, "--steps", 1, "-o", "out/{stem}_{model}.jpg")
    outcome = run("generate", "maps", *options, status=1)
    assert outcome.stdout.split() == ["out/a_lightning.jpg", "out/c_lightning.jpg"]
    assert "error: depth_map_b64: not an image" in outcome.stderr
    assert Image.open("out/c_lightning.jpg").format == "JPEG"
    again = run("generate", "maps", *options, status=1)
    assert "out/a_lightning.jpg exists, and 1 more" in again.stderr
    assert again.stdout == ""


def test_odd_depth_is_warned_of(run: Run, folder: Path) -> None:
    Image.new("L", (64, 64), 100).save(folder / "flat.png")
    outcome = run("generate", "flat.png", "-p", "hills", "--steps", 1, "-o", "x")
    assert outcome.stdout == "x.png\n"
    assert "warning: depth map: nearly constant" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ([DEPTH, "-m", "lightning", "-e", "wilderness"], []),
        ([DEPTH, "-m", "hyper", "--lora", "drone=0.7", "--lora", "experimance=1.2", "-N", 2], []),
        ([DEPTH, "-m", "base", "--invert-depth", "--photo", DEPTH, "--strength", 0.6], []),
        (["--mock-depth", "-m", "base", "--cfg", 3, "-n", "sea", "--karras"], []),
        (["--photo", DEPTH, "--strength", 0.4, "-m", "hyper", "--decoder", "tiny"], []),
        (["--photo", DEPTH, "-e", "ruins", "--normalize-depth"], []),
        (["--photo", DEPTH, "--invert-depth", "--no-embed-inputs"], ["--image", DEPTH]),
        ([DEPTH, "--no-embed-inputs", "--width", 264], ["--depth", DEPTH]),
        ([DEPTH, "--format", "webp", "--normalize-depth"], ["--depth", DEPTH]),
    ],
    ids=["lightning", "hyper, LoRAs, two", "base, image to image", "base, mock", "photo",
         "estimated", "estimated again", "without inputs", "WebP"],
)  # fmt: skip
def test_redo_paints_the_same(
    run: Run, folder: Path, options: list[object], again: list[object]
) -> None:
    painted = run("generate", *options, "-p", "hills", "-s", 9, "--steps", 3, "-o", "was-{seed}")
    for name in painted.stdout.split():
        outcome = run("redo", name, *again, "--json")
        told = json.loads(outcome.stdout)
        assert told["identical"], told
        both = [np.asarray(Image.open(path).convert("RGB")) for path in (name, told["file"])]
        assert (both[0] == both[1]).all()
        assert told["file"] == name.replace(".", "-redo.")


def test_redo_rejects_missing_or_changed_inputs(run: Run, folder: Path) -> None:
    run("generate", DEPTH, "-p", "hills", "-s", 1, "--steps", 1, "-o", "a", "--no-embed-inputs")
    missing = run("redo", "a.png", status=1)
    assert "give it with --depth" in missing.stderr
    Image.fromarray(hill(64, 64)).save("other.png")
    assert "is not the file" in run("redo", "a.png", "--depth", "other.png", status=1).stderr
    retouched = Image.open("a.png")
    parameters = retouched.info["parameters"]
    retouched.putpixel((3, 3), (255, 0, 255))
    for name, software in (("b.png", "experimance-controlnet 0.1.0"), ("c.png", "older 0.0.1")):
        chunks = PngImagePlugin.PngInfo()
        told = json.loads(parameters) | {"software": software}
        chunks.add_text("parameters", json.dumps(told))
        retouched.save(name, pnginfo=chunks)
    outcome = run("redo", "b.png", "--depth", DEPTH, status=1)
    assert re.search(r"differs in 0\.002% of its pixels, by \d+ of 255", outcome.stderr)
    later = run("redo", "c.png", "--depth", DEPTH)
    assert "software was older 0.0.1 and is experimance-controlnet" in later.stderr


def test_estimate(run: Run, folder: Path) -> None:
    options = ("--width", 264, "--height", 256)
    assert run("estimate", DEPTH, *options).stdout == "depth-depth.png\n"
    assert Image.open("depth-depth.png").size == (264, 256)
    assert "depth-depth.png exists" in run("estimate", DEPTH, status=1).stderr
    told = json.loads(run("estimate", DEPTH, *options, "-o", "b.png", "--json").stdout)
    assert (told["file"], told["width"], told["depth_estimator"]) == ("b.png", 264, "relief")
    run("estimate", DEPTH, "-o", "b.jpg", status=2)
    unknown = run("estimate", DEPTH, "--estimator", "none", "-o", "c.png", status=1)
    assert "accepted: relief" in unknown.stderr


def test_show(run: Run, folder: Path) -> None:
    run("generate", DEPTH, "-e", "future", "-s", 1, "--steps", 1, "-o", "a")
    table = run("show", "a.png").stdout
    assert re.search(r"^loras +experimance 1\.1", table, re.MULTILINE)
    assert re.search(r"^inside +its depth map", table, re.MULTILINE)
    assert json.loads(run("show", "a.png", "--json").stdout)["era"] == "future"
    assert "contains no parameters" in run("show", DEPTH, status=1).stderr
    Path("broken.png").write_bytes(Path("a.png").read_bytes()[:2000])
    assert "damaged" in run("show", "broken.png", status=1).stderr
    assert "not an image" in run("show", ROOT / "README.md", status=1).stderr
    assert "No such file" in run("show", "none.png", status=1).stderr


def test_compare(run: Run, folder: Path) -> None:
    options = ("--mock-depth", "--steps", 1, "-s", 4, "--rows", "model=lightning,hyper")
    outcome = run("compare", *options, "--columns", "era=ruins,future", "--cell", 128, "--json")
    told = json.loads(outcome.stdout)
    assert told["columns"] == {"era": ["ruins", "future"]}
    sheet = Image.open("sheet.png")
    assert sheet.size == (told["width"], told["height"])
    assert min(sheet.size) > 2 * 128
    assert "sheet.png exists" in run("compare", *options, "-p", "x", status=1).stderr
    assert run("compare", *options, "-p", "x", "-o", "b.jpg").stdout == "b.jpg\n"


def test_management_commands_report_service_state(run: Run) -> None:
    assert re.search(r"^ *lightning \* ", run("models").stdout, re.MULTILINE)
    assert "hyper" in json.loads(run("models", "--json").stdout)["details"]
    assert "hyper" in run("preload", "hyper").stderr
    assert "ready" in run("health").stdout
    assert json.loads(run("health", "--json").stdout)["ready_for_inference"]
    assert "hyper" not in run("unload", "hyper").stderr.partition("in memory")[2]


def test_command_errors_explain_the_remedy(run: Run) -> None:
    port = free_port()
    nobody = run("generate", "--mock-depth", "-p", "x", "--retries", 0, status=1,
                 url=f"http://127.0.0.1:{port}")  # fmt: skip
    assert f"not reachable at http://127.0.0.1:{port}" in nobody.stderr
    assert "make serve" in nobody.stderr
    unknown = run("generate", "--mock-depth", "-p", "x", "-m", "none", status=1)
    assert "accepted: lightning, hyper, base" in unknown.stderr
    for words in (("-p", "x", "--width", 1001), ("-p", "x", "--lora", "none")):
        refused = run("generate", "--mock-depth", *words, status=1)
        assert refused.stderr.startswith("error: ")
        assert refused.stdout == ""
    assert "not one of" in run("generate", "--mock-depth", "-e", "mud", status=2).stderr
    assert "not http" in run("health", url="somewhere", status=1).stderr


def test_ctrl_c_cancels(start: Start, log: ServiceLog, folder: Path) -> None:
    process = start("generate", "--mock-depth", "-p", "hills", "-m", "base", "--steps", 50,
                    "--width", 1024, "--height", 1024)  # fmt: skip
    err = Output(process, process.stderr)
    log.wait_for("started")
    assert interrupt(process) == 130
    assert "Traceback" not in err.to_the_end()
    log.wait_for("ended")
    assert log.events() == ["started", "ended"]
    assert list(folder.iterdir()) == []


def test_watch_follows_a_file(start: Start, service: Client, log: ServiceLog, folder: Path) -> None:
    """Not there at first, written in pieces, renamed, overtaken by a newer one, removed."""
    depth, picture = folder / "depth.png", folder / "out.png"
    process = start("watch", depth, picture, "-p", "hills", "-s", 1, "--interval", "0.05",
                    "--json", "--steps", 3)  # fmt: skip
    out, err = Output(process, process.stdout), Output(process, process.stderr)
    maps = [Image.fromarray(np.roll(hill(256, 256), 64 * turn, 1)) for turn in range(4)]
    last = service.generate("hills", maps[3], seed=1, steps=3, output_format="png")
    log.wait_for("finished")
    err.wait_for("the file does not exist yet")
    maps[0].save(folder / "whole.png")
    content = (folder / "whole.png").read_bytes()
    depth.write_bytes(content[: len(content) // 2])
    err.wait_for("not a complete image")
    assert log.events() == ["started", "finished"], "the last one alone"
    assert not picture.exists()

    def put(number: int) -> None:
        maps[number].save(folder / "next.png")
        (folder / "next.png").replace(depth)

    def painted(count: int) -> NDArray[np.int_]:
        wait_until(lambda: len(out.lines) == count, PATIENCE)
        return np.asarray(Image.open(picture)).astype(int)

    depth.write_bytes(content)
    first = painted(1)
    put(1)
    second = painted(2)
    told = [json.loads(line) for line in out.lines]
    assert [each["seed"] for each in told] == [1, 1]
    assert told[0]["request_id"] != told[1]["request_id"]
    depth.unlink()
    put(2)
    # Once the watcher has seen it.
    wait_until(lambda: log.events().count("started") == 4, PATIENCE)
    put(3)

    def follows_the_last() -> bool:
        now = np.asarray(Image.open(picture)).astype(int)
        return bool(np.abs(now - np.asarray(last.image)).max() <= 1)

    wait_until(follows_the_last, PATIENCE)
    assert len({each.tobytes() for each in (first, second, np.asarray(last.image, int))}) == 3
    assert interrupt(process) == 130
    assert "Traceback" not in err.to_the_end()
    assert {path.name for path in folder.iterdir()} == {"whole.png", "depth.png", "out.png"}


def test_watch_retries_until_the_service_answers(
    start: Start, service_url: str, folder: Path
) -> None:
    """Nobody answers at first; then somebody listens and hangs up; then it is the service."""
    port = free_port()
    Image.fromarray(hill(64, 64)).save(folder / "d.png")
    process = start("watch", "d.png", "o.png", "-e", "ruins", "--steps", 1, "--retries", 0,
                    MODEL_SERVER_URL=f"http://127.0.0.1:{port}")  # fmt: skip
    Output(process, process.stderr).wait_for("retrying")
    with passing_on(port, service_url):
        wait_until((folder / "o.png").exists, PATIENCE)
    assert interrupt(process) == 130


def test_watch_gives_up_where_no_depth_map_would_help(start: Start, folder: Path) -> None:
    Image.fromarray(hill(64, 64)).save(folder / "d.png")
    process = start("watch", "d.png", "o.png", "-p", "x", "-m", "none")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "accepted: lightning" in err


def test_the_shell_completes_names_of_the_service(start: Start) -> None:
    words = {"_EXPERIMANCE_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    words["COMP_WORDS"] = "experimance generate --era pre"

    def completes() -> bool:
        return start(**words).communicate(timeout=PATIENCE)[0].split() == ["pre_industrial"]

    # A service that does not answer within a second offers nothing.
    wait_until(completes, PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (free_port(), silent.getsockname()[1]):
            process = start(MODEL_SERVER_URL=f"http://127.0.0.1:{port}", **words)
            # The client's own patience is longer.
            out, err = process.communicate(timeout=100)
            assert (out.split(), err) == ([], "")


def test_the_version(start: Start) -> None:
    out, _ = start("--version").communicate(timeout=PATIENCE)
    assert re.fullmatch(r"experimance \d+\.\d+\.\d+\n", out)
