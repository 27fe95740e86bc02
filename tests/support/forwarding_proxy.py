"""A port that becomes the service's when a test wants it to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


@contextlib.contextmanager
def passing_on(port: int, url: str) -> Iterator[None]:
    """Listen on a port; hang up on the first caller, and connect the others with a URL's host."""
    target = (str(urlsplit(url).hostname), int(urlsplit(url).port or 0))
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        with contextlib.suppress(OSError):
            listener.accept()[0].close()
            while True:
                caller, _ = listener.accept()
                service = socket.create_connection(target)
                for one, other in ((caller, service), (service, caller)):
                    threading.Thread(target=_pour, args=(one, other), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        # Closing alone does not wake who waits in accept.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
