"""Imports and calls forbidden in the tree: code execution from data, and the wall clock."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server import ROOT

FOLDERS = (
    "common", "api", "runners", "models", "deploy", "benchmarks", "testing", "client", "docs_build",
)  # fmt: skip
SOURCES = [
    *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")),
    ROOT / "service.py",
]
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("yaml", "load")}
# Processes are dated by it, and how long a start took is told only.
READS_THE_WALL_CLOCK = {"startup_timer.py"}


def findings(tree: ast.AST) -> Iterator[str]:
    """What of it is forbidden."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (n.name for n in names if n.name.split(".")[0] in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module)):
                if module.split(".")[0] in FORBIDDEN_MODULES:
                    yield module
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                yield name
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                if (owner, name) in FORBIDDEN_ATTRIBUTES:
                    yield f"{owner}.{name}"
            case ast.keyword(arg="trust_remote_code" | "allow_pickle" | "weights_only" as name):
                yield str(name)
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                yield "shell=True"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import torch; torch.load('x')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)", "eval('1')",
        "run('x', shell=True)", "np.load('x', allow_pickle=True)", "import joblib.numpy_pickle",
    ],
)  # fmt: skip
def test_checker_finds_forbidden_code(source: str) -> None:
    assert list(findings(ast.parse(source)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tree_has_no_forbidden_code(path: Path) -> None:
    assert list(findings(ast.parse(path.read_text(encoding="utf-8")))) == []


def loads_networks(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="from_pretrained", value=ast.Name())):
                yield node


@pytest.mark.parametrize("folder", ["common", "api", "runners", "models"])
def test_networks_are_loaded_from_safetensors_only(folder: str) -> None:
    calls = [
        call
        for path in (ROOT / folder).rglob("*.py")
        for call in loads_networks(ast.parse(path.read_text(encoding="utf-8")))
    ]
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        assert isinstance(call.func.value, ast.Name)
        safe = any(keyword.arg == "use_safetensors" for keyword in call.keywords)
        weightless = call.func.value.id.endswith(("Tokenizer", "Config", "ImageProcessor"))
        assert safe or weightless, ast.unparse(call)


@pytest.mark.parametrize("folder", ["common", "api", "runners"])
def test_a_clock_that_jumps_changes_nothing(folder: str) -> None:
    """Durations and deadlines are of the monotonic clock; log lines alone have the other one."""
    for path in (ROOT / folder).rglob("*.py"):
        if path.name in READS_THE_WALL_CLOCK:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                wall = (node.value.id, node.attr) in {("time", "time"), ("datetime", "now")}
                assert not wall, f"{path.name}:{node.lineno}"
