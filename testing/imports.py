"""A catalog with weights in a bucket, and the stores that import it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from models.catalog import SHIPPED, Catalog, load_catalog
from models.importer import import_catalog
from models.sources.fetcher import FetchOptions
from models.sources.range_download import TransferOptions
from models.store.atomic_write import staging_root
from models.store.inventory import find_corrupt, inventory, missing_entries
from testing.faulty_bucket import BUCKET, FaultyBucket
from testing.server import ROOT

TRANSFER = TransferOptions(workers=4, range_bytes=256 << 10)
_WEIGHTS = SHIPPED.parent / "demo" / "weights"

_CATALOG = f"""
name = "bucket"
default_model = "base"
default_controlnet = "sdxl_small"

[models.base]
source = "gs://{BUCKET}/demo"
tiny_decoder = "gs://{BUCKET}/demo/tiny_decoder"
licence = "Apache-2.0"
native_size = 256
steps = 6
cfg = 1.0
scheduler = {{ class = "EulerDiscreteScheduler" }}

[controlnets.sdxl_small]
source = "gs://{BUCKET}/demo/controlnet"
licence = "Apache-2.0"

[loras.drone]
source = "gs://{BUCKET}/demo/loras/drone.safetensors"
licence = "Apache-2.0"
"""

_CHILD = """
import sys
from pathlib import Path
from testing.imports import Site
Site(Path(sys.argv[1])).run_import(print)
"""


@contextlib.contextmanager
def store_at(home: Path) -> Iterator[None]:
    """Use the Bento model store at `home` in this process for the duration of the context."""
    folder = home / "models"
    folder.mkdir(parents=True, exist_ok=True)
    BentoMLContainer.model_store_dir.set(str(folder))
    BentoMLContainer.model_store.set(ModelStore(folder))
    try:
        yield
    finally:
        BentoMLContainer.model_store.reset()
        BentoMLContainer.model_store_dir.reset()


def publish(bucket: FaultyBucket) -> int:
    """Upload the demo set to the bucket; return its size in bytes."""
    total = 0
    for file in sorted(_WEIGHTS.rglob("*")):
        if file.is_file():
            bucket.put(f"demo/{file.relative_to(_WEIGHTS).as_posix()}", file.read_bytes())
            total += file.stat().st_size
    return total


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with the catalog and a store; STORAGE_EMULATOR_HOST is the bucket's URL."""

    folder: Path

    @property
    def catalog_file(self) -> Path:
        """Path of the catalog; its lock file is next to it."""
        return self.folder / "bucket.toml"

    @property
    def catalog(self) -> Catalog:
        """The catalog as it is on disk now."""
        if not self.catalog_file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.catalog_file.write_text(_CATALOG, encoding="utf-8")
        return load_catalog(str(self.catalog_file))

    @property
    def downloads(self) -> Path:
        """The folder of incomplete downloads."""
        return self.folder / "downloads"

    def run_import(self, say: object = None, *, repin: bool = False, verify: bool = False) -> int:
        """Import in this process; return the number of new entries.

        Args:
            say: a callable that receives progress texts.
            repin: accept changed sources and replace their pins.
            verify: check the digests of stored components, and import corrupt ones again.

        Raises:
            ImportingError: The import failed.
        """
        options = FetchOptions(self.downloads, transfer=TRANSFER)
        with store_at(self.folder):
            report = say if callable(say) else lambda text: None
            return import_catalog(self.catalog, options, say=report, repin=repin, verify=verify)

    def start_import(self, url: str) -> subprocess.Popen[str]:
        """Start an import in a subprocess, from the bucket at `url`."""
        return subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(self.folder)],
            cwd=ROOT,
            env={**os.environ, "STORAGE_EMULATOR_HOST": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def problems(self, *, complete: bool = True) -> list[str]:
        """Return the store's faults: missing entries, damaged files, incomplete models."""
        with store_at(self.folder):
            found = inventory(self.catalog)
            wrong = [f"missing {name}" for name in missing_entries(self.catalog, found)] * complete
            wrong += [f"damaged {component.tag}" for component in find_corrupt(found)]
            for version in (self.folder / "models").glob("*/*/"):
                if not (version / "model.yaml").is_file():
                    wrong.append(f"half-made {version.parent.name}:{version.name}")
            if complete and staging_root().exists() and any(staging_root().iterdir()):
                wrong.append("left in staging")
            if complete and any(file.is_file() for file in self.downloads.rglob("*")):
                wrong.append("left in downloads")
        return wrong
