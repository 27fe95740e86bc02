"""The GPU report in miniature: every line of it, without a GPU and without the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_report import CASES
from testing.server import ROOT
from tests.support.calls import PATIENCE

_RUN = """
import sys
from benchmarks.gpu_report import main
sys.argv = ["gpu_report", "--miniature", "--output", {output!r}]
try:
    main()
finally:
    assert "bentoml" not in sys.modules
"""


def test_the_miniature_measures_everything(tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    code = _RUN.format(output=str(output))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["left_out"] == []
    for case in CASES[:3]:
        eager = result["figures"][f"{case.name}, batch {case.batch}, eager"]
        assert eager["engine"] > 0
        assert ("diffusers" in eager) == (case.decoder == "full")
        assert f"{case.name}, batch {case.batch}, compiled" in result["figures"]
    assert len(output.read_text().splitlines()) == len(result["figures"]) + 4
