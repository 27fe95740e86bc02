"""Check whether xformers works with the installed torch: exit status 0, or 1 and the reason.

A wheel built for another torch imports with a warning and fails when called. Therefore the wheel
must be built for this torch and its kernels must load. With a GPU, its result must also agree with
torch's own attention. Build machines usually have no GPU, so the service repeats the check at its
start.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

_TOLERANCE = 2e-2


class ProbeError(RuntimeError):
    """A reason against using xformers."""


def probe() -> str:
    """Check xformers; return a description of the checks.

    Raises:
        ProbeError: xformers is missing, built for another torch, or gives wrong results.
    """
    import torch

    found = importlib.util.find_spec("xformers")
    if found is None or found.origin is None:
        raise ProbeError("it is not installed")
    built = json.loads(Path(found.origin).with_name("cpp_lib.json").read_text())
    wanted = str(built["version"]["torch"])
    if _release(wanted) != _release(torch.__version__):
        raise ProbeError(f"built for torch {wanted}, and this is {torch.__version__}")
    # Imported by name, because type checkers cannot resolve a package that is no dependency.
    attention = importlib.import_module("xformers.ops").memory_efficient_attention
    # xformers only warns about kernels that do not load.
    library = importlib.import_module("xformers._cpp_lib")
    if library._cpp_library_load_exception is not None:  # noqa: SLF001
        raise ProbeError("its kernels do not load")
    if not torch.cuda.is_available():
        return "its kernels load; no GPU to run them on"
    query, key, value = torch.randn(3, 1, 64, 8, 64, device="cuda", dtype=torch.float16)
    own = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    ).transpose(1, 2)
    difference = (attention(query, key, value) - own).abs().max().item()
    if not difference < _TOLERANCE:
        raise ProbeError(f"it differs from torch's attention by {difference:.3g}")
    return f"ran on the GPU, differs from torch's attention by {difference:.1g}"


def _release(version: str) -> list[str]:
    return version.partition("+")[0].split(".")[:2]


def main() -> int:
    """Print the result; return the exit status."""
    try:
        print(f"xformers: {probe()}")
    except Exception as error:
        print(f"xformers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
