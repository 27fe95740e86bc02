"""Cost of hostile requests to everybody else: /livez, the next honest caller, memory, the log.

    python -m benchmarks.abuse [--only EXPRESSION] [--list]

Starts the service on the demo set with a token. Another process sends each attack of `abuse_cases`.
Meanwhile a watcher calls /livez every 20 ms, and an honest client sends the installation's own
request (two LoRAs, guidance, control) again and again.

Every attack must keep four limits:

- /livez answers within 100 ms (p99).
- The honest request that follows the attack's first byte takes at most twice as long as those
  before. The median of three attacks counts.
- The log grows by at most two bytes per byte received.
- No answer to the attack is a server fault.

Attacker and service share the machine's cores, so a machine with few cores shows more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.support.abuse_cases import ATTACKS, Attack, Call
from benchmarks.support.report import finish
from testing.process_state import processes_of
from testing.server import ROOT, import_demo, started_service

LIVEZ_BAR, HONEST_BAR, LOG_BAR = 0.1, 2.0, 2.0
TOKEN = "abuse"
HONEST = {
    "prompt": "aerial photograph of a coast, late afternoon", "negative_prompt": "blurry",
    "mock_depth": True, "model": "base", "steps": 6, "cfg": 2.0, "controlnet_strength": 0.8,
    "loras": [{"name": "drone", "strength": 0.8}, {"name": "experimance", "strength": 0.6}],
    "seed": 7,
}  # fmt: skip
_BEARER = {"Authorization": f"Bearer {TOKEN}"}
_LIVEZ_EVERY, _MEMORY_EVERY = 0.02, 0.1
_BASELINES = 5
ROUNDS = 3
_PIECE = 2**18


@dataclass(slots=True)
class Toll:
    """Cost of one attack: seconds, bytes, and the count of its answers by status."""

    name: str
    livez_p99: float
    honest_ratio: float
    peak_bytes: int
    log_per_byte: float
    seconds: float
    answers: dict[str, int]

    @property
    def holds(self) -> bool:
        """Whether every figure is within its bar."""
        # The server may close the connection of a body that is too large without an answer.
        faults = set(self.answers) - {"connection closed", "503", "504"}
        faults = {status for status in faults if status >= "500"}
        return (
            self.livez_p99 <= LIVEZ_BAR
            and self.honest_ratio <= HONEST_BAR
            and self.log_per_byte <= LOG_BAR
            and not faults
        )


async def attack(url: str, chosen: Attack) -> None:
    """Send the chosen attack once per line of standard input, and print the answers as JSON."""
    host, port = url.removeprefix("http://").split(":")
    calls = [_on_the_wire(call) for call in chosen.calls()]
    print(sum(map(len, calls)), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _send(calls, host, int(port), chosen.at_once)), flush=True)


async def _send(calls: list[bytes], host: str, port: int, at_once: int) -> Counter[str]:
    answers: Counter[str] = Counter()
    gate = asyncio.Semaphore(at_once)

    async def send(call: bytes) -> None:
        async with gate:
            try:
                reader, writer = await asyncio.open_connection(host, port)
                sending = asyncio.create_task(_write(writer, call))
                status = (await reader.readline()).split()
                await reader.read()
                sending.cancel()
                writer.close()
                answers[status[1].decode()] += 1
            except (OSError, IndexError):
                answers["connection closed"] += 1

    await asyncio.gather(*map(send, calls))
    return answers


async def _write(writer: asyncio.StreamWriter, call: bytes) -> None:
    """Send in pieces, because asyncio copies unsent data on cores that the service needs."""
    view = memoryview(call)
    with contextlib.suppress(OSError):
        for start in range(0, len(view), _PIECE):
            writer.write(view[start : start + _PIECE])
            await writer.drain()


def _on_the_wire(call: Call) -> bytes:
    """Build a request's bytes beforehand, so that the attacker's own work is not measured."""
    headers = {"Host": "localhost", "Connection": "close", **call.headers}
    headers |= {"Authorization": f"Bearer {TOKEN}"} if call.has_token else {}
    headers |= {"Content-Length": str(len(call.body))} if call.body else {}
    lines = (f"{call.method} {call.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()))
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + call.body


class Watch:
    """Latency of /livez, in seconds, and peak memory, in bytes, during an attack."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rsplit(":", 1)[1])
        self._url = url
        self.livez: list[float] = []
        self.peak = 0

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Sample until the context exits."""
        tasks = [asyncio.create_task(self._ask()), asyncio.create_task(self._weigh())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            while True:
                asked = time.monotonic()
                (await client.get("/livez")).raise_for_status()
                self.livez.append(time.monotonic() - asked)
                await asyncio.sleep(_LIVEZ_EVERY)

    async def _weigh(self) -> None:
        """Sample the memory of the API process and its decoders; the runner's is its weights."""
        api = processes_of(self._port)["api"]
        while True:
            with contextlib.suppress(psutil.Error):
                family = [api, *api.children(recursive=True)]
                self.peak = max(self.peak, sum(each.memory_info().rss for each in family))
            await asyncio.sleep(_MEMORY_EVERY)


async def honest(client: httpx.AsyncClient) -> float:
    """Return the seconds of one honest request."""
    began = time.monotonic()
    (await client.post("/generate", json=HONEST, headers=_BEARER)).raise_for_status()
    return time.monotonic() - began


async def toll_of(name: str, url: str, log: Path) -> Toll:
    """Run one attack and measure its cost.

    Args:
        name: key of the attack in `ATTACKS`.
        url: base URL of the service.
        log: the service's log file.
    """
    attacker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.abuse", "--attack", name, "--url", url),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert attacker.stdin is not None
    assert attacker.stdout is not None
    received = ROUNDS * int(await attacker.stdout.readline())
    watch, followed, answers = Watch(url), [], Counter[str]()
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        logged = _size(log)
        async with Watch(url).watching():
            alone = float(np.median([await honest(client) for _ in range(_BASELINES)]))
        # The honest requests write log lines too, so their share is subtracted below.
        each = (_size(log) - logged) / _BASELINES
        logged, answered = _size(log), 0
        began = time.monotonic()
        async with watch.watching():
            for _ in range(ROUNDS):
                attacker.stdin.write(b"\n")
                reply = asyncio.create_task(attacker.stdout.readline())
                followed.append(await honest(client))
                answered += 1
                while not reply.done():
                    await honest(client)
                    answered += 1
                answers.update(json.loads(await reply))
        seconds = time.monotonic() - began
    attacker.stdin.close()
    await attacker.wait()
    grown = max(0.0, _size(log) - logged - answered * each)
    return Toll(
        name, round(float(np.percentile(watch.livez, 99)), 4),
        round(float(np.median(followed)) / alone, 2), watch.peak, round(grown / received, 3),
        round(seconds, 1), dict(answers),
    )  # fmt: skip


def _size(file: Path) -> int:
    return file.stat().st_size


async def measure(names: list[str], url: str, log: Path) -> list[Toll]:
    """Run the attacks one after another, and print a row for each.

    Args:
        names: keys of the attacks in `ATTACKS`.
        url: base URL of the service.
        log: the service's log file.
    """
    tolls = []
    print(f"{'':44}{'livez p99':>10}{'honest':>8}{'peak MB':>9}{'log/byte':>9}{'s':>7}  answers")
    for name in names:
        toll = await toll_of(name, url, log)
        tolls.append(toll)
        figures = (
            f"{toll.livez_p99 * 1000:8.0f}ms{toll.honest_ratio:7.2f}x{toll.peak_bytes / 1e6:9.0f}"
        )
        answers = " ".join(f"{key}:{count}" for key, count in sorted(toll.answers.items()))
        mark = "" if toll.holds else "  <-- exceeds a bar"
        print(
            f"{toll.name[:43]:44}{figures}{toll.log_per_byte:9.3f}{toll.seconds:7.1f}  "
            f"{answers}{mark}",
            flush=True,
        )
    return tolls


def main() -> None:
    """Start the service, attack it, and finish with the worst figures against their bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="only attacks whose names match this expression")
    parser.add_argument("--list", action="store_true", help="list the attacks and exit")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options.url, ATTACKS[options.attack]))
        return
    names = [name for name in ATTACKS if re.search(options.only, name, re.I)]
    if options.list:
        print(*names, sep="\n")
        return
    with tempfile.TemporaryDirectory(prefix="experimance-") as folder:
        home, log = Path(folder, "bentoml"), Path(folder, "log")
        import_demo(home)
        # Without a long queue, the honest client would be refused because of its own requests.
        settings = {"API_TOKEN": TOKEN, "MAX_QUEUE_SECONDS": "3600"}
        with started_service(home, log, settings) as url:
            tolls = asyncio.run(measure(names, url, log))
    worst: dict[str, Any] = {
        "livez_p99": max(toll.livez_p99 for toll in tolls),
        "honest_ratio": max(toll.honest_ratio for toll in tolls),
        "peak_bytes": max(toll.peak_bytes for toll in tolls),
        "log_per_byte": max(toll.log_per_byte for toll in tolls),
    }
    beyond = [asdict(toll) for toll in tolls if not toll.holds]
    bars = {"livez_p99": LIVEZ_BAR, "honest_ratio": HONEST_BAR, "log_per_byte": LOG_BAR}
    finish(worst, bars, not beyond, attacks=len(tolls), beyond=beyond)


if __name__ == "__main__":
    main()
