"""The whole serverless chain: platform, the real worker package, the service with the demo set."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import os
import re
import subprocess
from collections.abc import Generator, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from deploy.vast.boot_test.instance import worker_environment
from deploy.vast.request_cost import Workload
from testing.server import ROOT, started_service
from tests.support.attack_helpers import costing_at_most
from tests.support.calls import PATIENCE, QUICK, ServiceLog
from tests.support.documents import PAGES, commands
from tests.support.images.pictures import encoded, hill, opened
from tests.support.vast.vast_chain import TOKEN, Chain, client_packages, started_worker
from tests.support.vast.vast_platform import Platform
from tests.support.waiting import wait_until

# So heavy that whoever comes next would wait for longer than the worker lets them.
HEAVY = {**QUICK, "model": "base", "steps": 50, "width": 512, "height": 512, "num_images": 4}


@pytest.fixture(scope="module")
def python() -> str:
    return str(worker_environment() / "bin" / "python")


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    yield made
    made.close()


@pytest.fixture(scope="module")
def chain(
    python: str, demo_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    platform = Platform()
    folder = tmp_path_factory.mktemp("worker")
    log = tmp_path_factory.mktemp("log") / "service.log"
    settings = {"API_TOKEN": TOKEN}
    with (
        # The worker waits for the ready line by itself.
        started_service(demo_home, log, settings, ready=False) as service,
        started_worker(python, folder, platform, MODEL_SERVER_URL=service, MODEL_LOG=str(log)) as (
            worker,
            process,
        ),
    ):
        served = ServiceLog(log)
        try:
            platform.await_report(lambda report: report["max_perf"] > 0)
        except AssertionError:
            raise AssertionError((folder / "log").read_text()[-3000:]) from None
        yield Chain(platform, service, worker, process, folder / "log", served)
    platform.close()


def test_worker_reports_its_measured_throughput(chain: Chain) -> None:
    report = chain.platform.await_report(lambda report: report["max_perf"] > 0)
    # Thirteen pictures were painted to find out, each for longer than 0.05 s.
    wait_until(lambda: sum(is_painted(*each) for each in chain.served.history) == 13)
    one = Workload.of_catalog("demo").tflop(QUICK | {"steps": 6})
    assert report["max_perf"] < one / 0.05
    assert report["url"] == chain.worker
    assert report["loadtime"] > 0
    assert report["error_msg"] == ""


def is_painted(event: str, request_id: str) -> bool:
    """Whether the event is the end of a picture, but not of the start's own."""
    return event == "finished" and not request_id.startswith("warm-up")


def test_worker_returns_an_image_and_reports_its_cost(chain: Chain) -> None:
    seen = len(chain.platform.reports)
    answer = chain.post("/generate", QUICK, {"X-Request-Id": "through-the-chain"})
    assert answer.status_code == 200
    body = answer.json()
    picture = Image.open(io.BytesIO(base64.b64decode(body["image_b64"])))
    assert picture.size == (256, 256)
    assert body["request_id"] == answer.headers["X-Request-Id"] == "through-the-chain"
    weight = Workload.of_catalog("demo").tflop(QUICK)
    chain.platform.await_report(
        lambda report: (
            report in chain.platform.reports[seen:] and report["cur_perf"] == pytest.approx(weight)
        )
    )
    chain.platform.await_report(lambda report: report["cur_load"] == 0)


def test_the_same_picture_as_from_the_service(chain: Chain) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    direct = httpx.post(f"{chain.service}/generate", json=QUICK, headers=headers, timeout=PATIENCE)
    through = chain.post("/generate", QUICK)
    assert through.json()["image_b64"] == direct.json()["image_b64"]


def test_binary_images_pass_through_unchanged(chain: Chain) -> None:
    # The platform's client sends no header of its own, so the payload can say it too.
    for payload, headers in (
        (QUICK, {"Accept": "image/webp"}),
        ({**QUICK, "accept": "image/webp"}, {}),
    ):
        answer = chain.post("/generate", payload, headers)
        assert answer.headers["Content-Type"] == "image/webp"
        assert Image.open(io.BytesIO(answer.content)).format == "WEBP"
        assert answer.headers["X-Seed"] == "5"


def test_events_are_forwarded_as_they_arrive(chain: Chain) -> None:
    body = chain.platform.enveloped(chain.worker, {**QUICK, "steps": 6})
    names = [line for line in stream_lines(chain, body) if line.startswith("event: ")]
    assert names.count("event: step") == 6
    assert names[-1] == "event: done"
    body = chain.platform.enveloped(chain.worker, {**HEAVY, "request_id": "forwarded"})
    lines = stream_lines(chain, body)
    assert any(line == "event: step" for line in lines)
    assert chain.served.events("forwarded") == ["started"]
    lines.close()
    chain.served.wait_for("ended", "forwarded")


def stream_lines(chain: Chain, body: dict[str, Any]) -> Generator[str]:
    url = f"{chain.worker}/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=PATIENCE) as answer:
        yield from answer.iter_lines()


def test_errors_of_the_caller_are_the_services(chain: Chain) -> None:
    answer = chain.post("/generate", {**QUICK, "width": 1001})
    assert answer.status_code == 400
    assert "width" in answer.json()["error_message"]


def test_permanent_failure_is_not_retried(chain: Chain) -> None:
    answer = chain.post("/generate", {**QUICK, "steps": 50, "deadline_ms": 1})
    assert answer.status_code == 422
    assert answer.json()["error"] == "deadline_exceeded"


def test_depth_of_a_photograph(chain: Chain) -> None:
    photograph = encoded(Image.fromarray(hill(256, 256)).convert("RGB"))
    answer = chain.post("/estimate_depth", {"image_b64": photograph}).json()
    assert opened(answer["depth_map_b64"]).size == (256, 256)
    assert answer["depth_estimator"] == "relief"


def test_preload(chain: Chain) -> None:
    answer = chain.post("/preload", {"model": "hyper"})
    assert answer.status_code == 200
    assert "hyper" in answer.json()["loaded_models"]


def test_a_request_that_the_router_did_not_sign(chain: Chain) -> None:
    assert chain.post("/generate", QUICK, signature="bm9ib2R5").status_code == 401
    assert chain.post("/generate", QUICK, url="http://127.0.0.2:1").status_code == 401
    unsigned = httpx.post(f"{chain.worker}/generate", json=QUICK, timeout=PATIENCE)
    assert unsigned.status_code == 422


@pytest.mark.parametrize(
    "route",
    ["/session/create", "/session/end", "/session/get", "/session/health", "/pyworker/update"],
)
def test_routes_of_the_worker_package_return_404(chain: Chain, route: str) -> None:
    body = {"auth_data": {}, "payload": {"on_close_route": chain.platform.url}}
    for sent in (json.dumps(body).encode(), b"[" * 10**7):
        answer = httpx.post(f"{chain.worker}{route}", content=sent, timeout=PATIENCE)
        assert answer.status_code == 404


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 30_000_000,
        b'{"auth_data": {' + b'"a": [],' * 3_000_000 + b'"b": 1}}',
        b'{"auth_data": {"cost": 1, "endpoint": "", "reqnum": 1, "request_idx": 1, "url": "x", '
        b'"signature": "' + b"A" * 30_000_000 + b'"}, "payload": {}}',
        b'{"auth_data": {"cost": 1, "endpoint": "", "reqnum": "1", "request_idx": [], "url": 7, '
        b'"signature": "forged\\nexperimance-controlnet ready\\u001b"}, "payload": {}}',
        b'{"auth_data": null}', b"null", b"", b"{",
    ],
)  # fmt: skip
def test_unsigned_request_costs_little_time_and_log(chain: Chain, said: bytes) -> None:
    before = chain.log.stat().st_size
    with costing_at_most(10, psutil.Process(chain.process.pid)):
        answer = httpx.post(f"{chain.worker}/generate", content=said, timeout=PATIENCE)
    assert answer.status_code in {401, 422}
    assert len(answer.content) < 200
    logged = chain.log.read_bytes()[before:]
    assert len(logged) < 10_000
    assert b"\nforged" not in logged
    assert b"\x1b" not in logged


def test_a_body_beyond_the_limit(chain: Chain) -> None:
    answer = chain.post("/generate", {**QUICK, "depth_map_b64": "A" * 34 * 2**20})
    assert answer.status_code == 413


def test_overload_returns_429_and_disconnect_cancels_request(chain: Chain) -> None:
    chain.await_queue(running=0)
    body = chain.platform.enveloped(chain.worker, HEAVY)
    with contextlib.closing(HTTPConnection(chain.worker.rpartition("/")[2])) as leaving:
        leaving.request("POST", "/generate", json.dumps(body))
        chain.await_queue(running=1)
        refused = chain.post("/generate", QUICK)
        assert refused.status_code == 429
        chain.platform.await_report(lambda report: report["rej_load"] > 0)
        # A variant can be loaded all the same.
        assert chain.post("/preload", {"model": "hyper"}).status_code == 200
    chain.await_queue(running=0)
    number = body["auth_data"]["request_idx"]
    wait_until(lambda: number in chain.platform.ended, PATIENCE)
    assert chain.platform.ended[number]["status"] == "Cancelled"
    assert chain.post("/generate", QUICK).status_code == 200


def test_project_client_reaches_the_worker(python: str, chain: Chain, tmp_path: Path) -> None:
    """Through the platform's own package, beside the Pillow that this pins."""
    packages = client_packages(python)
    chain.platform.worker = chain.worker
    caller, picture = (
        ROOT / "tests" / "support" / "vast" / "serverless_caller.py",
        tmp_path / "p.png",
    )
    done = subprocess.run(
        [python, caller, chain.platform.url, picture],
        capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'client'}{os.pathsep}{packages}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["events"] == ["Queued", "Started", "Step", "Step", "Done"]
    assert told["seed"] == 5
    assert told["pillow"].startswith("12.")
    assert "accepted: lightning" in told["refused"]
    assert "sea could not be found" in told["nowhere"]
    same = {"prompt": "hills", "mock_depth": True, "steps": 2, "seed": 5, "output_format": "png"}
    direct = base64.b64decode(chain.post("/generate", same).json()["image_b64"])
    assert picture.read_bytes() == direct
    chain.await_queue(running=0)


def kill_service(port: str) -> int:
    """Kill the processes of the service on a port, and return their number."""
    killed = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("MODEL_SERVER_PORT") == port:
                process.kill()
                killed += 1
    return killed


def test_a_request_to_a_killed_model_server_fails(chain: Chain) -> None:
    """The chain is broken after it."""
    port = chain.service.rpartition(":")[2]
    killed = kill_service(port)
    assert killed >= 2
    # The supervisor may have started another worker before its own end.
    kill_service(port)
    failed = chain.post("/generate", QUICK)
    assert failed.status_code == 500


@functools.cache
def help_of(program: str, verb: str, noun: str) -> str:
    """What the platform's command line says of a command."""
    command = [program, verb, noun, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(words, id=" ".join(words[:3]))
        for page in PAGES
        for line in commands(page)
        if "vastai" in line
        for words in [line[line.index("vastai") :]]
    ],
)
def test_the_pages_commands_are_the_platforms(python: str, command: list[str]) -> None:
    """Verb, noun and options are those of the command line in the worker's environment."""
    _, verb, noun, *_ = command
    shown = help_of(str(Path(python).with_name("vastai")), verb, noun)
    assert f"vastai {verb} {noun} " in shown
    for word in command[3:]:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word)}\b", shown), word


def test_a_service_that_cannot_start_is_reported(
    python: str, tmp_path: Path, platform: Platform
) -> None:
    platform.health = {
        "status": "error",
        "ready_for_inference": False,
        "startup_status": {"startup_error": "no space left on the disk"},
    }
    settings = {"MODEL_SERVER_URL": platform.url, "MODEL_LOG": str(tmp_path / "none.log")}
    with started_worker(python, tmp_path, platform, **settings):
        report = platform.await_report(lambda report: report["error_msg"])
    assert "no space left on the disk" in report["error_msg"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"MODEL_SERVER_URL": "localhost", "MODEL_LOG": "log"}, "MODEL_SERVER_URL"),
        ({"MODEL_LOG": ""}, "MODEL_LOG"),
        ({"MODEL_LOG": "log", "LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"MODEL_LOG": "log", "CATALOG": "nowhere"}, "nowhere.toml"),
    ],
)
def test_invalid_setting_stops_the_worker(
    python: str, tmp_path: Path, platform: Platform, settings: dict[str, str], named: str
) -> None:
    with started_worker(python, tmp_path, platform, **settings) as (_, process):
        assert process.wait(PATIENCE) == 78
    said = (tmp_path / "log").read_text()
    assert said.startswith("cannot start: ")
    assert named in said


def test_a_killed_model_server_is_reported(chain: Chain) -> None:
    """The last one: the worker looks every ten seconds."""
    report = chain.platform.await_report(lambda report: report["error_msg"])
    assert "Cannot connect" in report["error_msg"]
