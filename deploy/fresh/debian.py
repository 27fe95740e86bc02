"""A bare Debian in a folder: made by debootstrap once, unpacked anew for each test."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.container.build_mounts import Mount
from deploy.shell import run, say

# README's "apt install", and git to fetch the project with.
_PACKAGES = ("python3", "python3-venv", "ca-certificates", "make", "git")
_TERMINATION_SECONDS = 30
_ENTER = """
set -e
root=$1
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
shift
while [ "$1" != -- ]; do mount --bind -o "$3" "$1" "$root$2"; shift 3; done
shift
exec chroot "$root" /usr/bin/env --ignore-environment "$@"
"""


class Debian:
    """An unpacked root, and the folders of this machine that its processes see.

    Args:
        root: the folder; it is removed first.
        suite: Debian's name of the release, "trixie".
        cache: keeps the archive of the root between tests.
        mounts: read-only.
        package_cache: uv's cache, writable.
    """

    def __init__(
        self, root: Path, suite: str, cache: Path, mounts: Sequence[Mount], package_cache: Path
    ) -> None:
        self.root = root
        self._mounts = [(mount.source, mount.target, "ro") for mount in mounts]
        self._mounts.append((package_cache, "/root/.cache/uv", "rw"))
        _unpack(_archive(suite, cache), root)
        # debootstrap leaves it to the installer.
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        for source, target, _ in self._mounts:
            inside = root / target.lstrip("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                inside.mkdir(exist_ok=True)
            else:
                inside.touch()

    @contextlib.contextmanager
    def running(
        self, command: str, log: Path, variables: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a shell command as root inside; whatever it started ends with the block.

        Args:
            command: for `sh -c`, in /root.
            log: receives its output.
            variables: of its environment, beside PATH, HOME and LANG.
        """
        settings = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            # The cache is another mount, so that files cannot be linked from there.
            "UV_LINK_MODE": "copy",
            **(variables or {}),
        }
        mounts = [str(word) for mount in self._mounts for word in mount]
        inside = [*(f"{name}={value}" for name, value in settings.items()), "sh", "-c"]
        # A namespace of processes ends with its first one, and one of mounts needs no unmounting.
        # The first one ends with unshare, and unshare with this process, however that ends.
        enter = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid"]
        enter += ["--fork", "--kill-child", "sh", "-c", _ENTER, "sh"]
        say(f"$ {command}  > {log.name}")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*enter, str(self.root), *mounts, "--", *inside, f"cd /root && {command}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(_TERMINATION_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def remove(self) -> None:
        """Delete the root."""
        shutil.rmtree(self.root)


def _archive(suite: str, cache: Path) -> Path:
    """Return the archive of a bare root, made unless the cache has it."""
    recipe = hashlib.sha256(f"{suite} {_PACKAGES}".encode()).hexdigest()[:12]
    archive = cache / f"{suite}-{recipe}.tar"
    if archive.exists():
        say(f"{suite}: {archive.name} is there")
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / f"{suite}.partial"
    shutil.rmtree(tree, ignore_errors=True)
    partial = archive.with_suffix(".partial.tar")
    try:
        include = f"--include={','.join(_PACKAGES)}"
        run(["debootstrap", "--variant=minbase", include, suite, str(tree)])
        run(["tar", "--directory", str(tree), "--create", "--file", str(partial), "."])
        partial.replace(archive)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        partial.unlink(missing_ok=True)
    return archive


def _unpack(archive: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    run(["tar", "--directory", str(root), "--extract", "--file", str(archive)])
