"""Build the image for vast.ai.

python -m deploy.vast.build_image [--catalog NAME] [--flavour full|slim] [--base IMAGE]
    [--backend NAME] [--context-only]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from deploy.shell import ROOT, ContainerTestError, run, say
from deploy.vast.base import BaseImage, BaseImageError, default_base, parse_base
from deploy.vast.build_context import Flavour, write_build_context

_FOLDER = ROOT / "build" / "vast"
_BACKENDS = ("docker", "podman", "buildah")


class ImageError(RuntimeError):
    """An invalid argument, or a missing build tool."""


def main(arguments: list[str] | None = None) -> int:
    """Build the Bento, write the context, build the image; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.vast.build_image", description=__doc__)
    parser.add_argument("--catalog", default="experimance", help="one of models/catalog/")
    parser.add_argument("--flavour", choices=("full", "slim"), default="full")
    parser.add_argument("--base", help="a vastai/pytorch image in place of the Dockerfile's")
    parser.add_argument("--backend", choices=_BACKENDS, help="unset: the first that is installed")
    parser.add_argument("--context-only", action="store_true", help="stop before the build")
    options = parser.parse_args(arguments)
    context = _FOLDER / "context"
    try:
        base = _check(options.catalog, options.base)
        _assemble(options.catalog, options.flavour, context)
        if not options.context_only:
            _build(context, base, options)
    except (ImageError, BaseImageError, ContainerTestError) as error:
        print(f"no image: {error}", file=sys.stderr)
        return 1
    return 0


def _check(catalog: str, base: str | None) -> BaseImage:
    if not (ROOT / "models" / "catalog" / f"{catalog}.toml").is_file():
        raise ImageError(f"--catalog: put {catalog} into models/catalog/, give it without .toml")
    return default_base() if base is None else parse_base(base)


def _assemble(catalog: str, flavour: Flavour, context: Path) -> None:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    # A slim Bento is built in an empty home, so that it lists no models.
    home = _FOLDER / "empty-home" if flavour == "slim" else _bento_home()
    settings = {"BENTOML_HOME": str(home), "CATALOG": catalog, "BENTOML_DO_NOT_TRACK": "True"}
    if flavour == "full":
        command = [sys.executable, "-m", "models", "import", "--catalog", catalog]
        run(command, _FOLDER / "import.log", settings)
    build = ["build", "--arg", f"catalog={catalog}", "--output", "tag"]
    output = run([sys.executable, "-m", "bentoml", *build], settings=settings)
    tag = output.splitlines()[-1].removeprefix("__tag__:")
    write_build_context(home, tag, catalog, flavour, context)
    size = sum(file.stat().st_size for file in context.rglob("*") if file.is_file())
    say(f"context of {size / 1e9:.2f} GB in {context.relative_to(ROOT)}")


def _bento_home() -> Path:
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")


def _build(context: Path, base: BaseImage, options: argparse.Namespace) -> None:
    backend = options.backend or next((name for name in _BACKENDS if shutil.which(name)), None)
    if backend is None:
        raise ImageError(f"one of {', '.join(_BACKENDS)} is needed")
    image = f"experimance-controlnet:vast-{options.catalog}-{options.flavour}"
    # The OCI format does not support SHELL, which the Dockerfile uses.
    form = [] if backend == "docker" else ["--format", "docker"]
    argument = ["--build-arg", f"BASE={base.name}"]
    command = [backend, "build", *form, *argument, "--tag", image, str(context)]
    run(command, _FOLDER / "build.log")
    say(f"{image}: its hosts need {base.host_filter}")
    say(f"python -m deploy.vast.template --base {base.name} asks for them")


if __name__ == "__main__":
    sys.exit(main())
