"""Loading in the background, so that requests of other variants go on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import structlog
import torch

from runners.failure import LoadError
from runners.networks import ControlNet, Variant
from runners.residency import Residency

log = structlog.get_logger(__name__)

_Key = tuple[str, str, tuple[str, ...]]
_DONE: Future[None] = Future()
_DONE.set_result(None)


class Loader:
    """Brings weights into memory on a thread of its own, one load at a time.

    Futures carry no networks: what is unloaded must not live on in a result that nobody reads.
    """

    def __init__(self, residency: Residency) -> None:
        self.residency = residency
        self.on_change: Callable[[], None] = lambda: None
        self.in_use: Callable[[], set[str]] = set
        self.estimating: Callable[[], set[str]] = set
        residency.in_use = lambda: self.in_use() | self.estimating()
        self._pool = _single_threaded_pool()
        self._lock = threading.Lock()
        self._pending: dict[_Key, Future[None]] = {}
        self._awaited: dict[_Key, Future[None]] = {}
        self._estimators: dict[str, Future[None]] = {}

    def load(self, model: str, controlnet: str, loras: Sequence[str] = ()) -> Future[None]:
        """Start loading all of it unless that is under way; the future raises LoadError."""
        key = (model, controlnet, tuple(loras))
        with self._lock:
            future = self._pending.get(key)
            if future is not None and not future.done():
                return future
            future = self._pending[key] = self._pool.submit(self._load, *key)
        future.add_done_callback(lambda _: self.on_change())
        return future

    def load_estimator(self, name: str) -> Future[None]:
        """Start loading a depth estimator unless it is there; the future raises LoadError."""
        with self._lock:
            future = self._estimators.get(name)
            if future is not None and not future.done():
                return future
            if name in self.residency.estimators:
                # What is there is only marked as used, which waits for no other load.
                self.residency.use_estimator(name)
                return _DONE
            future = self._estimators[name] = self._pool.submit(self._load_estimator, name)
            return future

    def resident(
        self, model: str, controlnet: str, loras: Sequence[str] = ()
    ) -> tuple[Variant, ControlNet] | None:
        """Both networks, the LoRAs read, or None while they load, which this starts.

        For one thread.

        Raises:
            LoadError: the load that an earlier call started has failed; asking again tries again.
        """
        key = (model, controlnet, tuple(loras))
        variant, network = self.residency.ask(model, controlnet)
        complete = variant is not None and set(loras) <= set(variant.adapters.names)
        if variant is not None and complete and network is not None:
            self._awaited.pop(key, None)
            return variant, network
        awaited = self._awaited.get(key)
        if awaited is not None and awaited.done():
            del self._awaited[key]
            awaited.result()
            awaited = None
        if awaited is None:
            self._awaited[key] = self.load(*key)
        return None

    @property
    def crowded(self) -> bool:
        """Whether a load waits for requests to end: younger ones must not begin."""
        return self.residency.crowded

    def release_memory(self) -> None:
        """Let go of what the variants can make anew; on the device's thread."""
        for variant in list(self.residency.variants.values()):
            variant.adapters.release_sets()

    def close(self) -> None:
        """Let the current load end and start no other."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, model: str, controlnet: str, loras: tuple[str, ...]) -> None:
        try:
            self.residency.load_variant(model, beside=[controlnet])
            self.residency.load_loras(model, loras)
            self.residency.load_controlnet(controlnet, beside=[model])
        except LoadError as error:
            log.exception("load failed", model=model, controlnet=controlnet, reason=str(error))
            raise

    def _load_estimator(self, name: str) -> None:
        try:
            self.residency.load_estimator(name)
        except LoadError as error:
            log.exception("load failed", depth_estimator=name, reason=str(error))
            raise


def _single_threaded_pool() -> ThreadPoolExecutor:
    """One thread on which torch never parallelises.

    A second thread with a team of OpenMP workers makes libgomp put both teams to sleep at every
    barrier, which doubles the time of a step on a CPU. torch keeps the number of threads both per
    thread, fixed at its first use there, and as the default for threads to come.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, "load")
    pool.submit(torch.set_num_threads, 1).result()
    pool.submit(torch.get_num_threads).result()
    torch.set_num_threads(threads)
    return pool
