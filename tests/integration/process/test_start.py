"""Starts that must not succeed, and what an import needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.lifecycle import CONFIGURATION_ERROR
from testing.server import ROOT
from tests.support.service_process import serve


def refused(home: Path, **settings: str) -> str:
    """What a start says that must exit with the status of a configuration error."""
    done = serve(home, **settings)
    assert done.returncode == CONFIGURATION_ERROR == 78
    assert done.stderr.count("cannot start: ") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_missing_weights_stop_start_with_import_command(tmp_path: Path) -> None:
    said = refused(tmp_path)
    assert "cannot start: weights of catalog 'demo' are missing" in said
    assert "models.lightning, models.hyper, models.base, controlnets.sdxl_small" in said
    assert "python -m models import --catalog demo" in said


def test_bad_settings_stop_the_start(demo_home: Path) -> None:
    """One line names all of them, each with what is accepted."""
    bad = {
        "MODEL_SERVER_PORT": ("70000", "less than or equal to 65535"),
        "MAX_QUEUE": ("0", "greater than or equal to 1"),
        "LOG_FORMAT": ("xml", "'text' or 'json'"),
        "COMPILE": ("max", "'off' or 'regional'"),
        "ATTENTION_BACKEND": ("flash", "'sdpa' or 'xformers'"),
    }
    said = refused(demo_home, **{name: value for name, (value, _) in bad.items()})
    for name, (_, accepted) in bad.items():
        assert re.search(rf"{name}: [^;]*{accepted}", said), said


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("CATALOG", "sd15", "demo, experimance"),
        ("PRELOAD_MODEL", "turbo", "lightning, hyper, base"),
    ],
)
def test_a_name_of_nothing_stops_the_start(
    demo_home: Path, name: str, value: str, accepted: str
) -> None:
    said = refused(demo_home, **{name: value})
    assert name in said or value in said
    assert accepted in said


def test_importing_the_service_needs_neither_torch_nor_weights(tmp_path: Path) -> None:
    code = "import service, sys; assert 'torch' not in sys.modules, 'torch'"
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
