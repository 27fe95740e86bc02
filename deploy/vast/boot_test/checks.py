"""Checks of the boot."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from common.lifecycle import READY_LINE
from deploy.container.checks import check_equal, check_picture
from deploy.shell import ContainerTestError, say
from deploy.vast.boot_test.instance import LOG, PORT, URL, Machine
from deploy.vast.template import load_template

SERVICE, WORKER, LOGS = "experimance", "experimance-worker", "experimance-logs"
# Generous, for machines under other load.
_START_SECONDS = 300
_LISTENING = "0A"
_LOOPBACK = "0100007F"


def check_waits_for_provisioning(machine: Machine) -> None:
    """Check that no process of the service runs while /.provisioning exists."""
    machine.await_that("it says that it waits", lambda: "waits for the end" in machine.read(LOG))
    _expect(machine.serving() == [], "the service runs before the end of provisioning")
    say("  waits while /.provisioning is there")


def check_ready(machine: Machine) -> None:
    """Check that it becomes ready, logs that once, and that /readyz is not 200 before."""
    early = machine.get("/readyz")
    _expect(early != 200, "ready before its start")
    seconds = await_ready(machine)
    text = machine.read(LOG)
    _expect(text.splitlines().count(READY_LINE) == 1, "the ready line is not there once")
    phases = [line for line in text.splitlines() if '"event": "boot"' in line]
    check_equal("boot phases", len(phases), 5)
    check_equal("state", machine.state(SERVICE), "RUNNING")
    say(f"  ready after {seconds:.0f} s (/readyz before: {early}); the line is printed once")
    for line in phases:
        say(f"    {line}")


def check_serves(machine: Machine, picture: Path) -> None:
    """Check that it generates an image and listens on the loopback interface only."""
    machine.container.run_in_netns("paint", URL, str(picture), str(machine.container.pid))
    check_picture(picture)
    table = machine.shell("cat /proc/net/tcp /proc/net/tcp6")
    rows = [line.split() for line in table.splitlines() if ":" in line]
    bound = {row[1] for row in rows if row[3] == _LISTENING}
    _expect(f"{_LOOPBACK}:{PORT:04X}" in bound, f"nothing listens on 127.0.0.1:{PORT}: {bound}")
    outside = {address for address in bound if not address.startswith(f"{_LOOPBACK}:")}
    _expect(not outside, f"it listens outside of the loopback interface: {outside}")
    say("  listens on 127.0.0.1 only")


def check_users(machine: Machine) -> None:
    """Check that no process of the service is root or can gain privileges."""
    for pid in machine.serving():
        status = machine.read(f"/proc/{pid}/status")
        fields = {key: value.split() for key, _, value in (
            line.partition(":") for line in status.splitlines())}  # fmt: skip
        if not fields:
            # The process has exited in the meantime.
            continue
        _expect("0" not in fields["Uid"] + fields["Gid"], f"{pid} is root's: {fields['Uid']}")
        _expect(fields["NoNewPrivs"] == ["1"], f"{pid} may get new privileges")
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            _expect(int(fields[kind][0], 16) == 0, f"{pid} has capabilities: {fields[kind]}")
    say("  runs as a user without privileges, and without a way to any")


def check_portal(machine: Machine) -> None:
    """Check that the portal's file has the template's entries."""
    written: dict[str, Any] = yaml.safe_load(machine.read("/etc/portal.yaml"))["applications"]
    declared = load_template().portal
    check_equal("portal", list(written), [entry.name for entry in declared])
    for entry in declared:
        ports = written[entry.name]["external_port"], written[entry.name]["internal_port"]
        check_equal(entry.name, ports, (entry.external, entry.internal))
    say(f"  portal: {', '.join(written)}")


def check_others(machine: Machine) -> None:
    """Check that the worker exits unless serverless, and that log rotation runs."""
    machine.await_that("the worker ends", lambda: machine.state(WORKER) == "EXITED")
    check_equal(LOGS, machine.state(LOGS), "RUNNING")
    say(f"  {WORKER} EXITED (not serverless), {LOGS} RUNNING")


def check_rotation(machine: Machine) -> None:
    """Check that rotation truncates the log in place and the service continues to write to it."""
    before = len(machine.read(LOG))
    machine.shell("logrotate --force --state /tmp/state /etc/logrotate.d/experimance")
    _expect(len(machine.read(f"{LOG}.1")) >= before, "the rotated log is not whole")
    _expect(len(machine.read(LOG)) < before, "the log was not emptied")
    machine.get("/models")
    machine.await_that("it writes to the log", lambda: "/models" in machine.read(LOG), 10)
    say(f"  {before} bytes of log rotated; the next lines are in the new one")


def check_restart(machine: Machine, what: str, victim: str) -> None:
    """Check that after a SIGKILL of one process all old ones are gone, and the service recovers.

    Args:
        machine: the instance.
        what: a description of the process.
        victim: a shell command that prints its process id.
    """
    old = machine.serving()
    pid = machine.shell(victim).split()
    _expect(len(pid) == 1, f"not one process: {victim}: {pid}")
    machine.shell(f"kill -KILL {pid[0]}")
    machine.await_that("the old processes are gone", lambda: not set(old) & set(machine.serving()))
    seconds = await_ready(machine)
    check_equal("ready lines", machine.read(LOG).splitlines().count(READY_LINE), 1)
    say(f"  kill -9 of {what}: ready again after {seconds:.0f} s, none of {len(old)} old processes")


def check_runner_restart(machine: Machine) -> None:
    """Check that BentoML replaces the runner after a SIGKILL of it alone."""
    find = "pgrep -f '[/]venv/main/bin/python.*SDXLRunner'"
    (old,) = machine.shell(find).split()
    ready = machine.read(LOG).splitlines().count(READY_LINE)
    machine.shell(f"kill -KILL {old}")
    seconds = machine.await_that(
        "the new runner is ready",
        lambda: machine.read(LOG).splitlines().count(READY_LINE) > ready,
        _START_SECONDS,
    )
    check_equal("state", machine.state(SERVICE), "RUNNING")
    say(f"  kill -9 of the runner: another is ready after {seconds:.0f} s, by BentoML")


def check_stop(machine: Machine) -> None:
    """Check that `supervisorctl stop` lets the request in flight finish.

    Raises:
        ContainerTestError: The request in flight does not end.
    """
    with machine.container.slow_request(URL) as visitor:
        machine.shell(f"supervisorctl stop {SERVICE}")
        try:
            output, _ = visitor.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            raise ContainerTestError("the request in flight never ended") from None
    _expect('"status": 200' in output, f"the request in flight ended with {output.strip()!r}")
    check_equal("state", machine.state(SERVICE), "STOPPED")
    check_equal("processes left", machine.serving(), [])
    say("  the picture in flight was finished; STOPPED, no process left")


def check_configuration_error(machine: Machine) -> None:
    """Check that an invalid setting stops it with a message and without a restart."""
    machine.shell('echo MAX_QUEUE=0 > "$WORKSPACE/.env"; : > /var/log/portal/experimance.log')
    machine.shell(f"supervisorctl start {SERVICE}")
    machine.await_that("it ends", lambda: machine.state(SERVICE) == "EXITED")
    first = machine.read(LOG)
    _expect("MAX_QUEUE: Input should be greater than or equal to 1" in first, first)
    spawns = machine.shell(
        "grep -c 'spawned: .experimance. ' /var/log/supervisor/supervisord.log; sleep 10;"
        "grep -c 'spawned: .experimance. ' /var/log/supervisor/supervisord.log"
    ).split()
    _expect(len(set(spawns)) == 1, f"started again: {spawns}")
    check_equal("state", machine.state(SERVICE), "EXITED")
    _expect("exit status 78" in machine.read("/var/log/supervisor/supervisord.log"), "not 78")
    say("  MAX_QUEUE=0: its message, exit status 78, EXITED, no further start in 10 s")


def check_serverless(machine: Machine) -> None:
    """Check that the serverless worker listens, and that an invalid setting stops it."""
    settings = {
        "SERVERLESS": "true", "WORKER_PORT": "3000", "VAST_TCP_PORT_3000": "3000",
        "PUBLIC_IPADDR": "127.0.0.1", "CONTAINER_ID": "1", "REPORT_ADDR": "http://127.0.0.1:9",
    }  # fmt: skip
    lines = "\n".join(f"{name}={value}" for name, value in settings.items())
    machine.shell(f"printf '%s\n' '{lines}' > \"$WORKSPACE/.env\"")
    machine.shell(f"supervisorctl start {WORKER}")
    port = f":{int(settings['WORKER_PORT']):04X}"
    machine.await_that(
        "the worker listens", lambda: port in machine.shell("cat /proc/net/tcp /proc/net/tcp6")
    )
    check_equal("state", machine.state(WORKER), "RUNNING")
    user = machine.shell("ps -o user:32= -C python -o args= | grep deploy.vast.worker").split()[0]
    check_equal("the worker's user", user, WORKER)
    machine.shell('echo MODEL_SERVER_URL=nowhere >> "$WORKSPACE/.env"')
    machine.shell(f"supervisorctl restart {WORKER}")
    machine.await_that("it ends", lambda: machine.state(WORKER) == "EXITED")
    output = machine.read(f"/var/log/portal/{WORKER}.log")
    _expect("cannot start: MODEL_SERVER_URL: 'nowhere'" in output, output)
    say("  SERVERLESS=true: the worker listens; MODEL_SERVER_URL=nowhere: its message, EXITED")


def await_ready(machine: Machine) -> float:
    """Wait until /readyz is 200; return the seconds."""
    return machine.await_that("ready", lambda: machine.get("/readyz") == 200, _START_SECONDS)


def _expect(holds: bool, failure: str) -> None:
    if not holds:
        raise ContainerTestError(failure)
