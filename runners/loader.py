"""Loading in the background, so that requests of other variants go on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from runners.networks import ControlNet, Variant
from runners.residency import LoadError, Residency

log = structlog.get_logger(__name__)


class Loader:
    """Brings weights into memory on a thread of its own, one load at a time."""

    def __init__(self, residency: Residency) -> None:
        self.residency = residency
        self.on_change: Callable[[], None] = lambda: None
        self._pool = ThreadPoolExecutor(1, "load")
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, str], Future[tuple[Variant, ControlNet]]] = {}

    def load(self, model: str, controlnet: str) -> Future[tuple[Variant, ControlNet]]:
        """Start loading both unless that is under way; the future raises LoadError."""
        key = (model, controlnet)
        with self._lock:
            future = self._pending.get(key)
            if future is None:
                future = self._pool.submit(self._load, model, controlnet)
                self._pending[key] = future
        future.add_done_callback(lambda _: self.on_change())
        return future

    def resident(self, model: str, controlnet: str) -> tuple[Variant, ControlNet] | None:
        """Both networks, or None while they load, which this starts.

        Raises:
            LoadError: the load that this key waited for has failed; asking again tries again.
        """
        variant = self.residency.variants.get(model)
        network = self.residency.controlnets.get(controlnet)
        if variant is not None and network is not None:
            return variant, network
        future = self.load(model, controlnet)
        if not future.done():
            return None
        with self._lock:
            self._pending.pop((model, controlnet), None)
        return future.result()

    def close(self) -> None:
        """Let the current load end and start no other."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, model: str, controlnet: str) -> tuple[Variant, ControlNet]:
        try:
            variant = self.residency.load_variant(model)
            return variant, self.residency.load_controlnet(controlnet)
        except LoadError as error:
            log.exception("load failed", model=model, controlnet=controlnet, reason=str(error))
            raise
