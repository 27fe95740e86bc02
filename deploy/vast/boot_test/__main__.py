"""Boot the demo under supervisor with vast.ai's layout, and inject faults.

python -m deploy.vast.boot_test

The base image is not available everywhere. Debian's packages and stand-in scripts for vast.ai's
documented boot (deploy/vast/boot_test/base) replace it. The Python environment is mounted from this
machine, so the test does not cover what deploy/vast/Dockerfile installs.
"""

from __future__ import annotations

import sys

from deploy.container.image import build_bento
from deploy.container.timing import Phases
from deploy.shell import ROOT, ContainerTestError, require_tools, say
from deploy.vast.boot_test import checks
from deploy.vast.boot_test.instance import remove_images, running, test_image

_CATALOG = "demo"
_FOLDER = ROOT / "build" / "vast-test"


def main() -> int:
    """Run the test; return the exit status (1: failed, with the reason on stderr).

    The last line of stdout is JSON: the result, and the seconds of each phase.
    """
    phases = Phases()
    log = _FOLDER / "instance.log"
    try:
        require_tools()
        _FOLDER.mkdir(parents=True, exist_ok=True)
        with phases.phase("image"):
            test_image(build_bento(_FOLDER, _CATALOG), _CATALOG, _FOLDER)
        with phases.phase("boot"):
            _boot()
        remove_images(_FOLDER)
    except ContainerTestError as error:
        output = log.read_text(errors="replace")[-4000:] if log.exists() else "nothing"
        print(f"vast-test failed: {error}\nOutput of the instance:\n{output}", file=sys.stderr)
        print(phases.report(passed=False))
        return 1
    print(phases.report(passed=True))
    return 0


def _boot() -> None:
    with running(_CATALOG, _FOLDER / "instance.log") as machine:
        say("at its start:")
        checks.check_waits_for_provisioning(machine)
        checks.check_ready(machine)
        checks.check_portal(machine)
        checks.check_others(machine)
        checks.check_serves(machine, _FOLDER / "picture.png")
        checks.check_users(machine)
        checks.check_rotation(machine)
        say("when it is broken:")
        checks.check_runner_restart(machine)
        checks.check_restart(machine, "the server", "pgrep -f '[-]m bentoml serve'")
        checks.check_restart(machine, "its script", "supervisorctl pid experimance")
        say("at its end:")
        checks.check_stop(machine)
        checks.check_configuration_error(machine)
        checks.check_serverless(machine)
        status = machine.container.stop()
        if status != 0:
            raise ContainerTestError(f"the instance stopped with status {status}")


if __name__ == "__main__":
    sys.exit(main())
