"""Test README's instructions on a minimal Debian 12 and Debian 13, with Debian's own Python.

python -m deploy.fresh [--torch-index FOLDER]

On each release: clone, `make serve`, README's curl command, a second start. On the newer one also
`make test`. The test clones the last commit, without uncommitted changes. The last line of stdout
is JSON: times, sizes, and the releases skipped because the package index did not answer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from deploy.container.build_mounts import Mount, package_sources
from deploy.container.checks import expect
from deploy.container.timing import Phases
from deploy.fresh.debian import Debian
from deploy.fresh.visit import (
    PROJECT,
    SOURCE,
    RegistrySilent,
    await_ready,
    check_readme_picture,
    clone,
    free_port,
)
from deploy.shell import ROOT, ContainerTestError, require_tools, run, say

_SUITES = ("bookworm", "trixie")
_TESTED = "trixie"
_CPU_TESTED = "bookworm"
_FOLDER = ROOT / "build" / "fresh"
_CPU_FOLDER = "/mnt/torch"
_CPU_BYTES = 2e9
_SETUP_SIGN = "packages, at most"


def main(arguments: list[str] | None = None) -> int:
    """Run the test; return the exit status (1: failed, with the reason on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m deploy.fresh", description=__doc__)
    parser.add_argument("--torch-index", type=Path, help="a folder with a CPU build of torch")
    options = parser.parse_args(arguments)
    phases = Phases()
    phases.facts["skipped"] = skipped = []
    try:
        require_tools(("debootstrap", "unshare", "setpriv", "curl"))
        _FOLDER.mkdir(parents=True, exist_ok=True)
        if run(["git", "status", "--porcelain"]):
            say("uncommitted changes are not part of this test")
        for suite in _SUITES:
            try:
                _visit(suite, options.torch_index, phases)
            except RegistrySilent as error:
                say(f"{suite}: SKIPPED, the package index does not answer\n{error}")
                skipped.append(suite)
    except ContainerTestError as error:
        print(f"fresh-test failed: {error}", file=sys.stderr)
        print(phases.report(passed=False))
        return 1
    say(f"fresh-test: {len(_SUITES) - len(skipped)} passed, 0 failed, {len(skipped)} skipped")
    print(phases.report(passed=True))
    return 0


def _visit(suite: str, torch_index: Path | None, phases: Phases) -> None:
    mounts = [*package_sources(_FOLDER)[1], Mount(ROOT, SOURCE)]
    with_cpu = torch_index is not None and suite == _CPU_TESTED
    if with_cpu:
        mounts.append(Mount(Path(torch_index or "").resolve(), _CPU_FOLDER))
    with phases.phase(f"{suite}: root"):
        debian = _debian(suite, mounts)
    clone(debian, _log(suite, "clone"))
    _start(debian, suite, "first", phases)
    phases.facts[f"{suite}_environment_bytes"] = _environment_bytes(debian)
    _start(debian, suite, "second", phases)
    if suite == _TESTED:
        with phases.phase(f"{suite}: make test"):
            log = _log(suite, "test")
            with debian.running(f"cd {PROJECT} && make test", log, {"CI": "true"}) as process:
                status = process.wait()
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            say(f"  {''.join(last)}")
            expect(status == 0, f"make test ended with {status}:\n{log.read_text()[-6000:]}")
    if with_cpu:
        _start(debian, suite, "cpu", phases, f"TORCH=cpu TORCH_INDEX={_CPU_FOLDER}")
        size = phases.facts[f"{suite}_cpu_environment_bytes"] = _environment_bytes(debian)
        expect(size <= _CPU_BYTES, f"TORCH=cpu takes {size / 1e9:.2f} GB, not {_CPU_BYTES / 1e9}")
    debian.remove()


def _debian(suite: str, mounts: list[Mount]) -> Debian:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    packages = Path(run([sys.executable, "-m", "uv", "cache", "dir"]))
    packages.mkdir(parents=True, exist_ok=True)
    try:
        return Debian(_FOLDER / suite, suite, cache / PROJECT / "fresh", mounts, packages)
    except ContainerTestError as error:
        if "Failed getting release file" in str(error) or "Couldn't download" in str(error):
            raise RegistrySilent(str(error)) from error
        raise


def _start(debian: Debian, suite: str, name: str, phases: Phases, options: str = "") -> None:
    """Run `make serve` until ready, check README's image; only a second start skips setup."""
    port, log = free_port(), _log(suite, name)
    command = f"cd {PROJECT} && make serve PORT={port} {options}".strip()
    started = time.monotonic()
    with phases.phase(f"{suite}: {name} start"), debian.running(command, log) as process:
        await_ready(process, port, log)
        phases.facts[f"{suite}_{name}_start_seconds"] = round(time.monotonic() - started, 1)
        folder = debian.root / "root" / PROJECT
        phases.facts[f"{suite}_{name}_correlation"] = check_readme_picture(folder, port)
    has_setup = _SETUP_SIGN in log.read_text(errors="replace")
    expect(has_setup == (name != "second"), f"setup output in the {name} start: {has_setup}")


def _environment_bytes(debian: Debian) -> int:
    folder = debian.root / "root" / PROJECT / ".venv"
    du = ["du", "--summarize", "--bytes", str(folder)]
    return int(subprocess.run(du, capture_output=True, text=True, check=True).stdout.split()[0])


def _log(suite: str, name: str) -> Path:
    return _FOLDER / f"{suite}-{name}.log"


if __name__ == "__main__":
    sys.exit(main())
