"""Resources of a running service: memory, file descriptors, threads, temporary files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

RUNNER = "SDXLRunner"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """Resources of one process; `memory` is the resident set size in bytes."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessState:
        """Return the current state of a process."""
        with process.oneshot():
            return cls(process.memory_info().rss, process.num_fds(), process.num_threads())

    def growth(self, before: ProcessState) -> dict[str, float]:
        """Return each figure's increase over `before`."""
        then = asdict(before)
        return {name: round(value / then[name], 4) for name, value in asdict(self).items()}


def processes_of(port: int) -> dict[str, psutil.Process]:
    """Return the processes of the service on a port: `api`, and `runner` if there is one."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if "_bentoml_impl.worker.service" not in command:
            continue
        try:
            own = process.environ().get("MODEL_SERVER_PORT") == str(port)
        except psutil.Error:
            continue
        if own:
            found["runner" if RUNNER in command else "api"] = process
    return found


def states_of(port: int) -> dict[str, ProcessState]:
    """Return the state of each process."""
    return {name: ProcessState.of(process) for name, process in processes_of(port).items()}


def files_in(folder: Path) -> int:
    """Return the number of files below a folder, at any depth."""
    return sum(path.is_file() for path in folder.rglob("*"))
