"""The packages form a directed acyclic graph, and imports point downwards only."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server import ROOT

# Each room may import those below it, and itself.
LAYERS = (
    {"service"},
    {"api.handlers"},
    {"api.http", "api.images", "api.runner_client"},
    {"api.request_metrics", "api.runner_gauges"},
    {"api.errors"},
    {"api.schemas"},
    {"runners.server"},
    {"runners.engine"},
    {"runners.weights"},
    {"runners.diffusion"},
    {"runners.networks"},
    {"runners.errors", "runners.device_timer"},
    {"runners.device_faults"},
    {"runners.device", "runners.buffer_layout", "runners.cuda_allocator", "runners.metrics"},
    {"models.__main__"},
    {"models.importer"},
    {"models.inspection"},
    {"models.lora"},
    {"models.conversion"},
    {"models.sources"},
    {"models.store"},
    {"models.catalog"},
    {"common"},
)
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
PACKAGES = ("api", "runners", "models", "common")
MAX_MODULES = 15
# One script per claim, under a name that commands and documents use.
FLAT = {"benchmarks"}


def modules() -> dict[str, Path]:
    """Every module that serving imports, by its dotted name."""
    files = [ROOT / "service.py"]
    files += [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    found = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[:2] != ("models", "demo"):
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def find_imports(name: str, file: Path) -> Iterator[str]:
    """The project's modules that a module imports, lazily and for type checking too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (module for module in wanted if module in MODULES and module != name)


def find_room(module: str) -> str:
    """The room of a module: its package's part below the top, or the top itself."""
    top, *rest = module.split(".")
    return top if top in {"service", "common"} or not rest else f"{top}.{rest[0]}"


def test_no_import_points_upwards() -> None:
    for name, file in MODULES.items():
        for module in find_imports(name, file):
            below, above = find_room(module), find_room(name)
            if below in PACKAGES:
                # A package's own __init__ holds no code of its rooms.
                continue
            assert RANK[below] >= RANK[above], f"{name} imports {module}"
            if below != above:
                assert RANK[below] > RANK[above], f"{name} imports {module}, of the same layer"


def test_every_room_has_a_layer() -> None:
    rooms = {find_room(name) for name in MODULES} - set(PACKAGES)
    assert rooms | {"common"} == set(RANK)


def test_no_module_is_part_of_a_cycle() -> None:
    graph = {
        name: {
            module
            for module in find_imports(name, file)
            # Importing a package's module runs the package's __init__ first in any case.
            if not name.startswith(f"{module}.")
        }
        for name, file in MODULES.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    "root", [*PACKAGES, "benchmarks", "client", "deploy", "docs_build", "testing", "tests"]
)
def test_no_folder_holds_too_many_modules(root: str) -> None:
    for folder in [ROOT / root, *(path for path in (ROOT / root).rglob("*") if path.is_dir())]:
        names = {file.name for file in folder.glob("*.py")} - {"__init__.py", "__main__.py"}
        if folder.name not in FLAT or folder.parent != ROOT:
            assert len(names) <= MAX_MODULES, folder.relative_to(ROOT)
