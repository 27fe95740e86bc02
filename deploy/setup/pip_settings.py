"""pip's settings on this machine (index, certificates), translated for uv, which ignores them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Mapping
from pathlib import Path

# In ascending priority.
_SECTIONS = ("global", "install", ":env:")
_UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}


def read_pip_settings(python: str | Path) -> dict[str, str]:
    """Return pip's settings by option name, from its files and its environment variables.

    Args:
        python: an interpreter with pip.

    Raises:
        subprocess.CalledProcessError: The interpreter has no pip.
    """
    command = [python, "-m", "pip", "config", "list"]
    return parse_pip_settings(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )


def parse_pip_settings(listed: str) -> dict[str, str]:
    """Parse the output of `pip config list`; environment variables override files."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in found:
            found[section][name] = str(ast.literal_eval(value))
    merged: dict[str, str] = {}
    for section in _SECTIONS:
        merged |= found[section]
    return merged


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that make uv use pip's package sources.

    The result is empty if the environment already configures a uv index: that choice has priority.

    Args:
        settings: pip's settings, by option name.
        environment: this process's environment variables.
    """
    if any(name in environment for name in _UV_NAMES.values() if name.startswith("UV_")):
        return {}
    handed = {
        name: " ".join(settings[option].split())
        for option, name in _UV_NAMES.items()
        if settings.get(option, "").strip() and name not in environment
    }
    if "UV_FIND_LINKS" in handed:
        handed["UV_FIND_LINKS"] = handed["UV_FIND_LINKS"].replace(" ", ",")
    if "UV_INDEX" in handed:
        # pip compares the files of all indexes; uv by default uses the first index that has the
        # package. The lock's hashes make the former safe.
        handed["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return handed
