"""The demo Bento, and the image that BentoML builds from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from deploy.shell import ContainerTestError, podman, run, say

IMAGE = "localhost/experimance-controlnet:container-test"
_BENTO = "experimance-controlnet:container-test"
# Peak: the CUDA libraries exist as installed files, as a layer, and as the unpacked layer.
_BUILD_BYTES = 26e9


def build_bento(folder: Path, catalog: str) -> str:
    """Import the catalog into a separate Bento home and build its Bento; return the tag."""
    home = folder / "bentoml"
    shutil.rmtree(home / "bentos", ignore_errors=True)
    settings = {"BENTOML_HOME": str(home), "CATALOG": catalog, "BENTOML_DO_NOT_TRACK": "True"}
    run([sys.executable, "-m", "models", "import"], folder / "import.log", settings)
    version = _BENTO.partition(":")[2]
    build = ["build", "--arg", f"catalog={catalog}", "--version", version, "--output", "tag"]
    run([sys.executable, "-m", "bentoml", *build], folder / "build.log", settings)
    return _BENTO


def containerize(bento: str, base: str, containers_conf: Path, folder: Path) -> None:
    """Build `IMAGE` from the Bento with buildah, which caches unchanged steps.

    Args:
        bento: tag of the Bento.
        base: name of the base image.
        containers_conf: buildah's configuration, with the mounts of the build.
        folder: the folder of the Bento home and the logs.

    Raises:
        ContainerTestError: The build failed, or the disk space does not suffice.
    """
    before = _image_id()
    if before is None:
        _require_space()
    settings = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        # A sandbox forbids the namespaces and mounts of buildah's default isolation.
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_CONF": str(containers_conf),
    }
    options = ["--backend", "buildah", "--opt", f"from={base}", "--opt", "layers"]
    command = [sys.executable, "-m", "bentoml", "containerize", bento, *options, "-t", IMAGE]
    run(command, folder / "containerize.log", settings)
    if before not in {None, _image_id()}:
        # A failure is acceptable: the old image may have another tag.
        command = ["podman", "image", "rm", str(before)]
        subprocess.run(command, capture_output=True, check=False)
    say(f"  image of {size_of(IMAGE) / 1e9:.2f} GB")


def size_of(image: str) -> int:
    """Return the size of an image in bytes, including its base's layers."""
    return int(podman("image", "inspect", "--format", "{{.Size}}", image))


def _image_id() -> str | None:
    command = ["podman", "image", "inspect", "--format", "{{.Id}}", IMAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _require_space() -> None:
    store = podman("info", "--format", "{{.Store.GraphRoot}}")
    free = shutil.disk_usage(store).free
    if free < _BUILD_BYTES:
        raise ContainerTestError(
            f"the build needs {_BUILD_BYTES / 1e9:.0f} GB for a while, "
            f"and there are {free / 1e9:.0f} GB where podman keeps images"
        )
