"""A minimal Debian root: built once by debootstrap, unpacked anew for each test."""

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

# The packages of README's "apt install", and git for the clone.
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
    """An unpacked root, and the folders of this machine mounted into it.

    Args:
        root: the folder of the root; existing content is deleted first.
        suite: Debian's name of the release, e.g. "trixie".
        cache: the folder that keeps the archive of the root between tests.
        mounts: read-only mounts.
        package_cache: uv's cache, mounted writable.
    """

    def __init__(
        self, root: Path, suite: str, cache: Path, mounts: Sequence[Mount], package_cache: Path
    ) -> None:
        self.root = root
        self._mounts = [(mount.source, mount.target, "ro") for mount in mounts]
        self._mounts.append((package_cache, "/root/.cache/uv", "rw"))
        _unpack(_archive(suite, cache), root)
        # debootstrap does not write this file; Debian's installer does.
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
        """Run a shell command as root inside; kill it and its descendants when the context exits.

        Args:
            command: for `sh -c`, in /root.
            log: a file that receives stdout and stderr.
            variables: environment variables in addition to PATH, HOME and LANG.

        Yields:
            The process that entered the root.
        """
        settings = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            # The cache is on another mount, where hard links are impossible.
            "UV_LINK_MODE": "copy",
            **(variables or {}),
        }
        mounts = [str(word) for mount in self._mounts for word in mount]
        inside = [*(f"{name}={value}" for name, value in settings.items()), "sh", "-c"]
        # The kernel kills a PID namespace with its first process and unmounts a mount namespace.
        # --kill-child ties the first process to unshare, --pdeathsig ties unshare to this process.
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
    """Return the archive of a minimal root; build it if it is not in the cache."""
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
