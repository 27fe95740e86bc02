"""Keep BentoML's supervisor off the network.

BentoML 1.4.39 gives its supervisor (Circus) two TCP ports of the loopback interface. Whoever
reaches them, another user of the machine or a page in a browser, may read the service's
environment, tokens included, and have the supervisor run programs. Here they are sockets in a
folder that only the service's user may enter.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

from _bentoml_impl.server import serving
from circus.arbiter import Arbiter

from api.settings import SettingsError


def keep_supervisor_private() -> None:
    """Have every supervisor that this process makes listen on sockets of its user's own."""
    original = Arbiter.__init__
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def listen_privately(self: Any, *args: Any, **options: Any) -> None:
        # Its mode is 0700.
        folder = tempfile.mkdtemp(prefix="experimance-supervisor-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        options["endpoint"] = f"ipc://{folder}/control"
        options["pubsub_endpoint"] = f"ipc://{folder}/events"
        original(self, *args, **options)

    Arbiter.__init__ = listen_privately


def require_runner_socket(environment: Mapping[str, str]) -> None:
    """Check that the runner will listen on a socket of the file system.

    On TCP it would deserialise pickles of whoever connects.

    Raises:
        SettingsError: BENTOML_NO_UDS asks for TCP.
    """
    if "BENTOML_NO_UDS" in environment:
        raise SettingsError("BENTOML_NO_UDS: must not be set; the runner listens on no TCP port")
    # BentoML takes TCP under WSL, whose kernel has had such sockets since 2018.
    serving.IS_WSL = False
