"""The GPU report in miniature: every section, without a GPU and without the service."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gpu_report import SECTIONS, Report
from benchmarks.pack_gpu_report import MAX_BYTES, pack, required_packages
from benchmarks.support.gpu.inspection import classify
from benchmarks.support.gpu.painting import Row
from tests.support.calls import PATIENCE


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with torch and what torch requires, and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Links instead of an installation: their modules are compiled already.
    for name in required_packages(["torch"]):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin" / "python"


def test_pack_measures_everything_where_only_torch_is(bare_python: Path, tmp_path: Path) -> None:
    archive, output = tmp_path / "gpu-report.tar.gz", tmp_path / "report.md"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert pack(archive, python) <= MAX_BYTES
    with tarfile.open(archive) as packed:
        names = packed.getnames()
        packed.extractall(tmp_path, filter="data")
    assert not any(name.endswith(".safetensors") for name in names)
    assert not any("/wheels/bentoml" in name for name in names)
    # One thread, because the networks are small and other tests run beside this one.
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": str(bare_python),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [tmp_path / "gpu-report" / "run.sh", "--miniature", "--output", str(output)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["left_out"] == []
    assert result["failed"] == {}
    figures = result["figures"]
    assert figures["picture against diffusers'"]["largest"] <= 1
    assert figures["picture against diffusers'"]["spread of the picture"] > 1
    assert figures["installation's request, seconds"]["engine"] > 0
    for rows in ("1 row", "2 rows"):
        for kind in ("eager", "compiled"):
            assert figures[f"step, {rows}, 2 LoRAs, {kind}"]["device"] > 0
    assert figures["kernels: convolution"]["launches"] > 0
    assert figures["UNet loads beside painting"]["beside"] > 0
    assert figures["UNet in channels-last"]["relative error"] < 1e-3
    written = output.read_text("utf-8")
    assert [line[3:] for line in written.splitlines() if line.startswith("## ")] == list(SECTIONS)


def test_failing_section_costs_only_itself(tmp_path: Path) -> None:
    def breaks() -> Iterator[Row]:
        yield "before", {"seconds": 1.5}
        raise RuntimeError("CUDA error")

    def works() -> Iterator[Row]:
        yield "after", {"waits": 0}

    output = tmp_path / "report.md"
    report = Report("a card", output)
    report.add("first", breaks(), 10)
    assert "| before | seconds 1.5 |" in output.read_text("utf-8"), "it is written as it goes"
    report.add("second", works(), 10)
    report.add("third", works(), 0)
    assert report.failed == {"first": "RuntimeError: CUDA error"}
    assert report.left_out == ["third"]
    assert report.figures == {"before": {"seconds": 1.5}, "after": {"waits": 0}}


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", "matrix product"),
        ("pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", "attention"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_f16f16_f16f32_nhwckrsc", "convolution"),
        ("void at::native::RowwiseMomentsCUDAKernel<c10::Half>", "norm"),
        ("void cudnn::ops::nchwToNhwcKernel<__half, __half, float>", "layout"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, silu>", "other"),
    ],
)
def test_kernels_are_classified(kernel: str, kind: str) -> None:
    assert classify(kernel) == kind
