"""requirements.lock: every package by version and by the hashes of its files.

    python -m deploy.supply.lock            write the registry's hashes into it
    python -m deploy.supply.lock --check    compare it with the registry: withdrawn or changed files

The registry is asked by the simple API (PEP 691). Of a release count the wheels that Linux on
x86-64 can install, or the source if there are none.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from deploy.container.commands import ROOT

LOCK = ROOT / "requirements.lock"
REGISTRY = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple/")
_SIMPLE = "application/vnd.pypi.simple.v1+json"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PINNED = re.compile(
    r"^([A-Za-z0-9._-]+)==(\S+)((?:\s*\\\n\s+" + _HASH.pattern + r")*)\n", re.MULTILINE
)
_PYTHONS = ("cp311", "cp312", "abi3", "none")


class LockError(ValueError):
    """A package that the registry does not have as it is pinned; the message names it."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A package of the lock; `hashes` are SHA-256 of files that are accepted."""

    name: str
    version: str
    hashes: frozenset[str] = frozenset()

    def __str__(self) -> str:
        lines = [f"{self.name}=={self.version}"]
        lines += [f"    --hash=sha256:{each}" for each in sorted(self.hashes)]
        return " \\\n".join(lines) + "\n"


def pins(text: str) -> list[Pin]:
    """The packages of a lock, in its order.

    Raises:
        LockError: a line that is neither a package nor one of its hashes.
    """
    found = [
        Pin(name, version, frozenset(_HASH.findall(hashes)))
        for name, version, hashes, _ in _PINNED.findall(text)
    ]
    rest = _PINNED.sub("", text).strip()
    if rest:
        raise LockError(f"not understood: {rest.splitlines()[0]}")
    return found


def files_of(pin: Pin, listing: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Hash, and whether it was withdrawn, of each file of a release that may be installed."""
    wheels, sources = [], []
    for file in listing["files"]:
        name: str = file["filename"]
        entry = (file["hashes"]["sha256"], bool(file.get("yanked")))
        try:
            if name.endswith(".whl"):
                _, version, _, tags = parse_wheel_filename(name)
                if str(version) == pin.version and any(map(_installable, tags)):
                    wheels.append(entry)
            elif name.endswith(".tar.gz"):
                _, version = parse_sdist_filename(name)
                if str(version) == pin.version:
                    sources.append(entry)
        except ValueError:
            # Names from before there were rules for them.
            continue
    yield from wheels or sources


def _installable(tag: Any) -> bool:
    abi = tag.abi in _PYTHONS and not tag.interpreter.startswith(("pp", "py2", "cp31t"))
    platform = tag.platform == "any" or re.fullmatch(r"(many)?linux.*x86_64", tag.platform)
    return abi and platform is not None


def listings(found: Sequence[Pin]) -> list[Mapping[str, Any]]:
    """What the registry has of each package."""
    headers = {"Accept": _SIMPLE}
    with httpx.Client(headers=headers, timeout=60, follow_redirects=True) as client:

        def ask(pin: Pin) -> Mapping[str, Any]:
            url = f"{REGISTRY.rstrip('/')}/{canonicalize_name(pin.name)}/"
            answer = client.get(url)
            if answer.status_code != httpx.codes.OK:
                raise LockError(f"{pin.name}: the registry answers {answer.status_code}")
            listing: Mapping[str, Any] = answer.json()
            return listing

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(ask, found))


def locked(text: str) -> str:
    """The lock with the registry's hashes.

    Raises:
        LockError: a release that is not there.
    """
    found = pins(text)
    lines = []
    for pin, listing in zip(found, listings(found), strict=True):
        hashes = frozenset(each for each, _ in files_of(pin, listing))
        if not hashes:
            raise LockError(f"{pin.name}=={pin.version}: the registry has no file to install")
        lines.append(str(Pin(pin.name, pin.version, hashes)))
    return "".join(lines)


def faults(text: str) -> list[str]:
    """What of the lock the registry does not have any more, or has withdrawn."""
    found = pins(text)
    said = []
    for pin, listing in zip(found, listings(found), strict=True):
        there = dict(files_of(pin, listing))
        if not pin.hashes:
            said.append(f"{pin.name}=={pin.version}: no hash")
        for each in sorted(pin.hashes - there.keys()):
            said.append(f"{pin.name}=={pin.version}: sha256:{each} is not in the registry")
        if any(there[each] for each in pin.hashes & there.keys()):
            said.append(f"{pin.name}=={pin.version}: withdrawn")
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the lock; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.supply.lock", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and change nothing")
    options = parser.parse_args(arguments)
    text = LOCK.read_text(encoding="utf-8")
    try:
        if not options.check:
            LOCK.write_text(locked(text), encoding="utf-8")
            return 0
        found = faults(text)
    except (LockError, httpx.HTTPError) as error:
        print(f"not checked: {error}", file=sys.stderr)
        return 2
    print("\n".join(found) or f"{len(pins(text))} packages are as the registry has them")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
