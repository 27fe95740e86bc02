"""Mounts that give an image build this machine's access to packages.

pip's configuration, its local folders and the machine's certificates are mounted during the build.
The image does not contain them.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deploy.setup.pip_settings import read_pip_settings

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_URLS = ("index-url", "extra-index-url")
_LISTS = ("extra-index-url", "find-links", "trusted-host")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of this machine, and its path in the build."""

    source: Path
    target: str

    def __str__(self) -> str:
        return f"{self.source}:{self.target}:ro"


def containers_conf(folder: Path) -> Path:
    """Write the build's mounts to `folder`; return the path of its containers.conf.

    BentoML joins several `--opt volume=…` into one invalid option, so the mounts go into the file
    with buildah's defaults.
    """
    settings, mounts = package_sources(folder)
    uv_toml = folder / "uv.toml"
    uv_toml.write_text(_uv_toml(settings))
    mounts.append(Mount(uv_toml, "/etc/uv/uv.toml"))
    written = folder / "containers.conf"
    volumes = json.dumps([str(mount) for mount in mounts])
    written.write_text(f"[containers]\nvolumes = {volumes}\n")
    return written


def package_sources(folder: Path) -> tuple[dict[str, str], list[Mount]]:
    """Return pip's settings for the build, and the mounts that they need.

    One mount is a pip.conf with these settings.

    Args:
        folder: the folder that receives pip.conf.
    """
    settings, mounts = _relocate(read_pip_settings(sys.executable))
    certificates = _certificates(settings.get("cert"))
    if certificates is not None:
        mounts.append(Mount(certificates, _CERTIFICATES))
    pip_conf = folder / "pip.conf"
    pip_conf.write_text(_pip_conf(settings))
    return settings, [*mounts, Mount(pip_conf, "/etc/pip.conf")]


def _relocate(settings: Mapping[str, str]) -> tuple[dict[str, str], list[Mount]]:
    """Return the settings with the build's path of every local folder, and the mounts."""
    moved = dict(settings)
    mounts: list[Mount] = []
    for name in (*_URLS, "find-links"):
        places = []
        for place in settings.get(name, "").split():
            path = _local(place)
            if path is None:
                places.append(place)
                continue
            # An index's pages usually link to files in sibling folders.
            shown = path.parent if name in _URLS or path.is_file() else path
            target = f"/mnt/packages-{len(mounts)}"
            mounts.append(Mount(shown, target))
            inside = Path(target) / path.relative_to(shown)
            places.append(inside.as_uri() if name in _URLS else str(inside))
        if places:
            moved[name] = " ".join(places)
    return moved, mounts


def _local(place: str) -> Path | None:
    parts = urlsplit(place)
    path = Path(unquote(parts.path))
    return path if parts.scheme in {"", "file"} and path.is_absolute() and path.exists() else None


def _certificates(configured: str | None) -> Path | None:
    named = configured or os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    return Path(named).resolve() if named and Path(named).is_file() else None


def _pip_conf(settings: Mapping[str, str]) -> str:
    kept = {name: settings[name] for name in ("index-url", *_LISTS, "no-index") if name in settings}
    # BentoML installs uv outside a virtual environment, which Debian's pip refuses by default.
    kept |= {"cert": _CERTIFICATES, "break-system-packages": "true"}
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items())


def _uv_toml(settings: Mapping[str, str]) -> str:
    """Return uv's equivalent of pip.conf; like pip, it then takes the best file of all indexes."""
    lines = ["system-certs = true", "no-cache = true", 'index-strategy = "unsafe-best-match"']
    if "index-url" in settings:
        lines.append(f"index-url = {json.dumps(settings['index-url'])}")
    for name, key in zip(
        _LISTS, ("extra-index-url", "find-links", "allow-insecure-host"), strict=True
    ):
        if name in settings:
            lines.append(f"{key} = {json.dumps(settings[name].split())}")
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        lines.append("no-index = true")
    return "\n".join(lines) + "\n"
