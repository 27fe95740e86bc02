"""Build the demo Bento's image, run it, and check that it needs neither root nor a network.

python -m deploy.container [--clean]
"""

from __future__ import annotations

import argparse
import shutil
import sys

from deploy.container.base_image import base_image
from deploy.container.build_mounts import containers_conf
from deploy.container.checks import (
    check_equal,
    check_picture,
    check_stop,
    check_without_network,
    check_without_root,
    check_writes,
)
from deploy.container.container import READ_ONLY, URL, run_container
from deploy.container.image import IMAGE, build_bento, containerize, size_of
from deploy.container.timing import Phases
from deploy.shell import ROOT, ContainerTestError, podman, require_tools
from models.catalog import load_catalog

_CATALOG = "demo"
_FOLDER = ROOT / "build" / "container"


def main(arguments: list[str] | None = None) -> int:
    """Run the test; return the exit status (1: failed, with the reason on stderr).

    The last line of stdout is JSON: the result, the seconds of each phase, the sizes in bytes.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.container", description=__doc__)
    parser.add_argument("--clean", action="store_true", help="remove images and files afterwards")
    options = parser.parse_args(arguments)
    phases = Phases()
    try:
        _run(phases)
        if options.clean:
            podman("image", "rm", "--force", IMAGE, phases.facts["base"])
            shutil.rmtree(_FOLDER)
    except ContainerTestError as error:
        print(f"container-test failed: {error}", file=sys.stderr)
        print(phases.report(passed=False))
        return 1
    print(phases.report(passed=True))
    return 0


def _run(phases: Phases) -> None:
    require_tools()
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with phases.phase("base image"):
        base = base_image(_FOLDER)
    phases.facts |= {"base": base, "base_bytes": size_of(base)}
    with phases.phase("bento"):
        bento = build_bento(_FOLDER, _CATALOG)
    with phases.phase("containerize"):
        containerize(bento, base, containers_conf(_FOLDER), _FOLDER)
    phases.facts["image_bytes"] = size_of(IMAGE)
    _serve(phases)


def _serve(phases: Phases) -> None:
    log, picture = _FOLDER / "service.log", _FOLDER / "picture.png"
    try:
        with run_container(IMAGE, log) as container:
            with phases.phase("isolation at the start"):
                check_without_root(container)
                check_without_network(container)
            with phases.phase("picture"):
                result = container.run_in_netns("paint", URL, str(picture), str(container.pid))
                check_equal("variants", result["models"], list(load_catalog(_CATALOG).models))
                check_picture(picture)
            phases.facts |= {name: result[name] for name in ("ready_seconds", "picture_seconds")}
            with phases.phase("isolation while it serves"):
                check_without_root(container)
                check_without_network(container)
            with phases.phase("stop"):
                check_stop(container)
            with phases.phase("what it wrote"):
                check_writes(container)
        with phases.phase("read-only"), run_container(IMAGE, log, READ_ONLY) as container:
            container.run_in_netns("paint", URL, str(picture), str(container.pid))
            check_picture(picture)
            check_stop(container)
    except ContainerTestError as error:
        output = log.read_text(errors="replace")[-4000:] if log.exists() else "nothing"
        raise ContainerTestError(f"{error}\nOutput of the container:\n{output}") from error


if __name__ == "__main__":
    sys.exit(main())
