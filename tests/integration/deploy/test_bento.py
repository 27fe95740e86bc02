"""A Bento: its contents, its image, and serving from an empty folder."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from deploy.setup.lockfile import SERVING, entries
from models.__main__ import main as models_command
from models.catalog import SHIPPED
from models.store.atomic_write import commit, staging_dir
from testing.imports import store_at
from testing.server import ROOT, linked_home, started_service
from tests.support.calls import PATIENCE

MINE = """
name = "mine"
default_model = "only"
default_controlnet = "depth"

[models.only]
source = "file:{weights}"
licence = "Apache-2.0"
native_size = 256
steps = 2
cfg = 1.0
scheduler = {{ class = "EulerDiscreteScheduler" }}

[controlnets.depth]
source = "file:{weights}/controlnet"
licence = "Apache-2.0"
"""


@dataclass(frozen=True, slots=True)
class Built:
    """A Bento and the home that holds it."""

    home: Path
    tag: str
    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load((self.folder / "bento.yaml").read_text())
        return content


def run(home: Path, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    environment.pop("CATALOG", None)
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A Bento of an operator's own catalog, in a store that holds the demo set too."""
    source = tmp_path_factory.mktemp("source")
    home = linked_home(demo_home, tmp_path_factory.mktemp("home"))
    for name in ("service.py", "bentofile.yaml", "requirements.lock", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("common", "api", "runners", "models", "playground", "tests"):
        skipped = shutil.ignore_patterns("*.safetensors", "__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    stray = source / "build" / "bentoml" / "service.py"
    stray.parent.mkdir(parents=True)
    stray.touch()
    weights = SHIPPED.parent / "demo" / "weights"
    catalog = source / "models" / "catalog" / "mine.toml"
    catalog.write_text(MINE.format(weights=weights))
    with store_at(home):
        assert models_command(["import", "--catalog", str(catalog)]) == 0
    said = run(home, source, "bentoml", "build", "--arg", "catalog=mine", "--output", "tag")
    tag = said.strip().splitlines()[-1].removeprefix("__tag__:")
    return Built(home, tag, home / "bentos" / tag.replace(":", "/"))


def test_bento_lists_only_models_of_its_catalog(built: Built) -> None:
    listed = [
        model["tag"].partition(":")[0]
        for service in built.manifest["services"]
        for model in service["models"]
    ]
    assert sorted(listed) == [
        "mine.controlnets.depth",
        "mine.models.only",
        "sdxl-controlnet",
        "sdxl-text_encoder",
        "sdxl-text_encoder_2",
        "sdxl-tokenizer",
        "sdxl-tokenizer_2",
        "sdxl-unet",
        "sdxl-vae",
    ]


def test_exported_archive_contains_the_models(built: Built, tmp_path: Path) -> None:
    run(built.home, tmp_path, "bentoml", "export", built.tag, str(tmp_path / "out.tar"))
    shutil.unpack_archive(tmp_path / "out.tar", tmp_path / "out")
    carried = list((tmp_path / "out").glob("models/*/*/model.yaml"))
    stored = {path.name for path in (tmp_path / "out").glob("models/*") if path.is_dir()}
    assert len(carried) == 9
    assert not any(name.startswith("demo.") for name in stored)
    assert list((tmp_path / "out").glob("models/sdxl-unet/*/*.safetensors"))


def test_bento_contains_only_sources_needed_to_serve(built: Built) -> None:
    sources = built.folder / "src"
    assert (sources / "models" / "catalog" / "mine.toml").is_file()
    assert (sources / "models" / "conversion" / "sdxl" / "unet.json").is_file()
    assert (sources / "playground" / "index.html").is_file()
    assert not (sources / "tests").exists()
    assert not (sources / "build").exists()
    assert not (sources / "models" / "demo").exists()
    assert not list(sources.rglob("*.safetensors"))


def test_dockerfile_sets_catalog_host_and_user(built: Built) -> None:
    lines = (built.folder / "env" / "docker" / "Dockerfile").read_text().splitlines()
    assert "ARG CATALOG=mine" in lines
    assert "ENV CATALOG=$CATALOG" in lines
    assert "ARG MODEL_SERVER_HOST=0.0.0.0" in lines
    assert next(line for line in lines if line.startswith("FROM")).split()[1] == (
        f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    )
    users = [line for line in lines if line.startswith("USER")]
    assert users == ["USER bentoml"], "the last word on who runs it"
    requirements = (built.folder / "env" / "python" / "requirements.txt").read_text()
    # BentoML writes markers with other spaces and quotes, and names itself once more at the end.
    *carried, bentoml = map(pinned, entries(requirements))
    assert carried == [pinned(entry) for entry in entries(SERVING.read_text(encoding="utf-8"))]
    assert bentoml[:2] in [each[:2] for each in carried]


def pinned(entry: tuple[str, str]) -> tuple[str, str, set[str]]:
    """The name, the version and the hashes of a lock's package."""
    name, lines = entry
    version = re.split(r"[\s;\\]", lines.partition("==")[2])[0]
    return name, version, set(re.findall(r"sha256:\w+", lines))


def test_bento_serves_its_catalog_from_an_empty_folder(built: Built, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    pinned = next((built.home / "models" / "mine.models.only").glob("*/model.yaml")).parent
    with store_at(built.home), staging_dir() as folder:
        # Imported after the Bento was built, so it is not the Bento's; nor is it whole.
        (folder / "newer").mkdir()
        (folder / "newer" / "entry.json").write_text('{"components": {"unet": "sdxl-unet:gone"}}')
        commit(folder / "newer", "mine.models.only:newer", {}, {})
    with started_service(
        built.home, tmp_path / "log", {"CATALOG": ""}, bento=built.tag, folder=empty
    ) as url:
        details = httpx.get(f"{url}/models", timeout=PATIENCE).json()["details"]
        assert {name: each["digest"] for name, each in details.items()} == {"only": pinned.name}
        body = {"prompt": "hills", "mock_depth": True, "output_format": "png"}
        answer = httpx.post(
            f"{url}/generate", json=body, headers={"Accept": "image/png"}, timeout=PATIENCE
        )
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (256, 256)
    assert len(picture.getcolors(65536) or []) != 1
