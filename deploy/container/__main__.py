"""Build the demo Bento's image, run it, and show that it serves without root and network.

python -m deploy.container [--clean]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from deploy.container.base import base_image
from deploy.container.checks import (
    check_equal,
    check_picture,
    check_stop,
    check_without_network,
    check_without_root,
)
from deploy.container.commands import ROOT, ContainerTestError, podman, require_tools, say
from deploy.container.container import URL, started
from deploy.container.host import containers_conf
from deploy.container.image import IMAGE, build_bento, containerize
from models.catalog import load_catalog

_CATALOG = "demo"
_FOLDER = ROOT / "build" / "container"


def main(arguments: list[str] | None = None) -> int:
    """Run the test; returns the exit status (1: failed, with the reason on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m deploy.container", description=__doc__)
    parser.add_argument("--clean", action="store_true", help="remove images and files afterwards")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        require_tools()
        _FOLDER.mkdir(parents=True, exist_ok=True)
        base = base_image(_FOLDER)
        bento = build_bento(_FOLDER, _CATALOG)
        containerize(bento, base, containers_conf(_FOLDER), _FOLDER)
        _serve()
        if options.clean:
            podman("image", "rm", "--force", IMAGE, base)
            shutil.rmtree(_FOLDER)
    except ContainerTestError as error:
        print(f"container-test failed: {error}", file=sys.stderr)
        return 1
    say(f"container-test passed in {time.monotonic() - began:.0f} s")
    return 0


def _serve() -> None:
    log, picture = _FOLDER / "service.log", _FOLDER / "picture.png"
    try:
        with started(IMAGE, log) as container:
            say("at its start:")
            check_without_root(container)
            check_without_network(container)
            painted = container.visit("paint", URL, str(picture), str(container.pid))
            ready, took = painted["ready_seconds"], painted["picture_seconds"]
            say(f"  ready after {ready} s, painted in {took} s")
            check_equal("variants", painted["models"], list(load_catalog(_CATALOG).models))
            check_picture(picture)
            say("while it serves:")
            check_without_root(container)
            check_without_network(container)
            say("at its end:")
            check_stop(container)
    except ContainerTestError as error:
        said = log.read_text(errors="replace")[-4000:] if log.exists() else "nothing"
        raise ContainerTestError(f"{error}\nThe container said:\n{said}") from error


if __name__ == "__main__":
    sys.exit(main())
