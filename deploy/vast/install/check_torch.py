"""Check that the service and the installed packages accept the base image's torch.

python check_torch.py REQUIREMENT     REQUIREMENT as in pyproject.toml: torch>=2.11,<2.15
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distributions, version

from packaging.requirements import Requirement

_BASES_OWN = ("torch", "torchvision", "torchaudio", "triton")


def problems(accepted: Requirement) -> list[str]:
    """Return the conflicts of the installed torch, torchvision, torchaudio and triton."""
    installed = {}
    for name in _BASES_OWN:
        try:
            installed[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    found = []
    if installed.get("torch", "0") not in accepted.specifier:
        found.append(f"the base image has torch {installed.get('torch')}, not {accepted}")
    for distribution in distributions():
        if distribution.metadata["Name"] in _BASES_OWN:
            continue
        for line in distribution.requires or ():
            needed = Requirement(line)
            if needed.marker and not needed.marker.evaluate({"extra": ""}):
                continue
            there = installed.get(needed.name)
            if there is not None and there not in needed.specifier:
                found.append(f"{distribution.metadata['Name']} needs {needed}, there is {there}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems(Requirement(sys.argv[1]))) or 0)
