"""Build context of the image: the Bento, its models and the files of deploy/vast."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import yaml

from deploy.setup.installer import torch_requirement
from deploy.setup.lockfile import SERVING, without_torch
from deploy.shell import ROOT

Flavour = Literal["full", "slim"]

HERE = Path(__file__).parent
# Modules outside deploy/vast that the worker imports.
_WORKER = (
    "api/__init__.py",
    "api/http/__init__.py",
    "api/http/json_outline.py",
    "common/__init__.py",
    "common/limits.py",
    "common/log_text.py",
    "common/lifecycle.py",
    "common/step_window.py",
    "deploy/__init__.py",
    "deploy/vast/__init__.py",
)
EXCLUDED_FROM_WORKER = {
    "base.py",
    "build_context.py",
    "build_image.py",
    "price_table.py",
    "template.py",
}


def write_build_context(
    home: Path, tag: str, catalog: str, flavour: Flavour, context: Path
) -> None:
    """Write the context of deploy/vast/Dockerfile; existing content of `context` is deleted.

    Args:
        home: the Bento home (`BENTOML_HOME`) that holds the Bento and its models.
        tag: tag of the Bento, with its version.
        catalog: the image's default catalog; an instance can override it.
        flavour: `full` includes the Bento's models; with `slim` the first start fetches them.
        context: the folder of the context.
    """
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    bento = home / "bentos" / tag.replace(":", "/")
    shutil.copytree(bento, context / "bento")
    (context / "models").mkdir()
    if flavour == "full":
        for model in _models(bento):
            _link_model(home / "models" / model.replace(":", "/"), context / "models")
    for name in ("ROOT", "install"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE / name, context / name, ignore=ignored)
    for name in ("Dockerfile", "worker-requirements.txt"):
        shutil.copy(HERE / name, context)
    lock = SERVING.read_text(encoding="utf-8")
    (context / "requirements.txt").write_text(without_torch(lock), encoding="utf-8")
    (context / "torch.txt").write_text(torch_requirement(), encoding="utf-8")
    write_image_env(context / "image.env", catalog, flavour)
    copy_worker(context / "worker")


def write_image_env(file: Path, catalog: str, flavour: Flavour) -> None:
    """Write the defaults of the programs' settings, as shell assignments."""
    fetch = int(flavour == "slim")
    file.write_text(f"IMAGE_CATALOG={catalog}\nIMAGE_FETCH_MISSING={fetch}\n", encoding="utf-8")


def _models(bento: Path) -> set[str]:
    """Return the tags of all models that a Bento lists."""
    manifest = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
    return {model["tag"] for service in manifest["services"] for model in service["models"]}


def _link_model(source: Path, store: Path) -> None:
    """Hard-link a model of the store, to avoid copying gigabytes, and mark it as `latest`."""
    target = store / source.parent.name / source.name
    shutil.copytree(source, target, copy_function=_link)
    (target.parent / "latest").write_text(source.name, encoding="utf-8")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def copy_worker(folder: Path) -> None:
    """Copy the modules and data files that the serverless worker needs."""
    own = (path for path in HERE.iterdir() if path.suffix in {".py", ".json", ".toml"})
    names = [str(path.relative_to(ROOT)) for path in own if path.name not in EXCLUDED_FROM_WORKER]
    catalogs = [
        str(path.relative_to(ROOT)) for path in (ROOT / "models" / "catalog").glob("*.toml")
    ]
    for name in {*_WORKER, *names, *catalogs}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
