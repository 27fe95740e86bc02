"""Checks of the running container."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import psutil
from PIL import Image, ImageStat

from deploy.container.container import Container, network_namespace
from deploy.container.probe import HEIGHT, WIDTH
from deploy.shell import ContainerTestError, say

_FLAT = 5.0
_HOMES = ("/home/bentoml/", "/tmp/")  # noqa: S108
# podman creates the mount points of files such as /etc/hosts.
_PODMANS = frozenset({"/etc", "/home", "/home/bentoml", "/tmp"})  # noqa: S108


def check_without_root(container: Container) -> None:
    """Check that no process has root's user, a root group or a capability."""
    for pid in container.processes():
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        ids = {kind: set(status[kind].split()) for kind in ("Uid", "Gid", "Groups")}
        expect(not any("0" in found for found in ids.values()), f"{pid} is root: {ids}")
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            expect(int(status[kind], 16) == 0, f"{pid} has {kind} {status[kind]}")
        expect(status["NoNewPrivs"] == "1", f"{pid} may gain privileges")
        say(f"  {status['Name']} ({pid}): user {sorted(ids['Uid'])}, no capabilities")


def check_without_network(container: Container) -> None:
    """Check that a listener reachable from this machine is unreachable from the container."""
    expect(container.inspect(".Mounts") == [], "something of this machine is mounted")
    outside, inside = network_namespace(psutil.Process().pid), network_namespace(container.pid)
    expect(outside != inside, "it shares this machine's network")
    for pid in container.processes():
        expect(network_namespace(pid) == inside, f"{pid} is in another network")
    address = _address()
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        socket.create_connection((address, port), timeout=5).close()
        seen = container.run_in_netns("isolation", address, str(port))
    expect(set(seen["interfaces"]) == {"lo"}, f"interfaces: {seen['interfaces']}")
    expect(set(seen["routes"]) <= {"lo"}, f"routes by: {seen['routes']}")
    expect(seen["connection"] == "ENETUNREACH", f"a connection outwards: {seen['connection']}")
    say(f"  interfaces {seen['interfaces']}, no route but theirs; outwards: {seen['connection']}")


def check_picture(file: Path) -> None:
    """Check that the image has the requested size and is not uniform."""
    with Image.open(file) as picture:
        picture.load()
        deviations = ImageStat.Stat(picture).stddev
        expect(picture.size == (WIDTH, HEIGHT), f"the picture's size is {picture.size}")
    expect(max(deviations) > _FLAT, f"the picture is flat: standard deviations {deviations}")
    shown = ", ".join(f"{deviation:.0f}" for deviation in deviations)
    say(f"  {picture.size} {picture.format}, standard deviations {shown}")


def check_stop(container: Container) -> None:
    """Check that SIGTERM ends the container with status 0, after the request in flight."""
    with container.slow_request() as visitor:
        status = container.stop()
        output, _ = visitor.communicate(timeout=30)
    expect('"status": 200' in output, f"the request in flight ended with {output.strip()!r}")
    expect(status == 0, f"it stopped with status {status}")
    say("  the picture in flight was finished; exit status 0")


def check_writes(container: Container) -> None:
    """Check that only the user's home and /tmp have new files, and that none is deleted."""
    changes = [line.split(maxsplit=1) for line in container.changes()]
    strange = [
        f"{kind} {path}"
        for kind, path in changes
        if kind == "D" or (path not in _PODMANS and not path.startswith(_HOMES))
    ]
    expect(not strange, f"it wrote where it should not: {strange}")
    added = [path for kind, path in changes if kind == "A" and "__pycache__" not in path]
    say(f"  {len(added)} files and folders beside bytecode, all below {' and '.join(_HOMES)}")


def check_equal(what: str, found: Any, wanted: Any) -> None:
    """Check that two values are equal.

    Args:
        what: the name of the value in the message.
        found: the actual value.
        wanted: the expected value.

    Raises:
        ContainerTestError: The values differ.
    """
    expect(found == wanted, f"{what}: {found}, not {wanted}")


def _address() -> str:
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if name != "lo" and entry.family == socket.AF_INET:
                return str(entry.address)
    raise ContainerTestError("this machine has no network itself, so its absence proves nothing")


def expect(holds: bool, failure: str) -> None:
    """Check a condition.

    Raises:
        ContainerTestError: `holds` is False; the message is `failure`.
    """
    if not holds:
        raise ContainerTestError(failure)
