"""Break the runner's device once when the file DEVICE_FAULT appears."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE = "runners.diffusion.denoise"


class _Finder(MetaPathFinder):
    """Finder that replaces the denoising step after its module has been loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _MODULE else None
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_replace(module: Any) -> None:
                execute(module)
                module.predict_noise = _breakable(module.predict_noise)

            loader.exec_module = execute_and_replace
        return spec


def _breakable(predict_noise: Any) -> Any:
    fault = Path(os.environ["DEVICE_FAULT"])

    def predict(*arguments: Any) -> Any:
        if fault.exists():
            import torch

            fault.unlink()
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return predict_noise(*arguments)

    return predict


def install() -> None:
    """Let this process import the breakable step."""
    sys.meta_path.insert(0, _Finder())
