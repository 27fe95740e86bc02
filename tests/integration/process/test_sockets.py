"""Sockets of the service: one TCP port, and private Unix sockets."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path

import psutil
import pytest

from common.bentoml_patches import require_runner_socket
from common.settings import SettingsError
from tests.support.observed_service import Observed


def service_processes(port: int) -> list[psutil.Process]:
    """The supervisor of the service on a port, and all that it has started."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        # Others may end while they are looked at.
        with contextlib.suppress(psutil.Error):
            if "serve" in words and process.environ().get("MODEL_SERVER_PORT") == str(port):
                return [process, *process.children(recursive=True)]
    raise AssertionError("no supervisor found")


@pytest.fixture
def port(observed: Observed) -> int:
    return int(observed.url.rsplit(":", 1)[1])


@pytest.fixture
def processes(port: int) -> list[psutil.Process]:
    return service_processes(port)


def test_one_tcp_port_is_listened_on_and_no_udp_port(
    port: int, processes: list[psutil.Process]
) -> None:
    assert len(processes) >= 3, "the supervisor, the public process and the runner"
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }
    assert listening == {("127.0.0.1", port)}


def test_sockets_of_the_file_system_are_the_users_own(processes: list[psutil.Process]) -> None:
    paths = {
        connection.laddr
        for process in processes
        for connection in process.net_connections("unix")
        if connection.laddr
    }
    assert any("experimance-supervisor-" in path for path in paths)
    for path in paths:
        assert path.startswith("/"), f"an abstract socket has no mode: {path!r}"
        # A socket may be bound under a temporary name and moved.
        folder = Path(path).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_runner_on_tcp_is_refused() -> None:
    with pytest.raises(SettingsError, match="BENTOML_NO_UDS: must not be set"):
        require_runner_socket({"BENTOML_NO_UDS": "1"})
    require_runner_socket({})
