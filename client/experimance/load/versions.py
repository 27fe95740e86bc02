"""What the load generator ran on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("experimance-client", "httpx2", "numpy", "matplotlib")


def versions() -> dict[str, str]:
    """Versions by name: of Python, the system and the packages that are installed."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
