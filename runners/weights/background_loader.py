"""Background loading of weights while requests of other variants run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import structlog
import torch

from runners.errors import LoadError
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.weights.model_cache import ModelCache

log = structlog.get_logger(__name__)

_Key = tuple[str, str, tuple[str, ...]]
_DONE: Future[None] = Future()
_DONE.set_result(None)


class BackgroundLoader:
    """Loader of weights on a background thread, one load at a time.

    Futures carry no networks, because an unread result would keep unloaded weights alive.

    Args:
        model_cache: the cache that loads them.
        on_change: called after every load of networks, from the loading thread.
        on_error: called with the error of every failed load, from the loading thread.
    """

    def __init__(
        self,
        model_cache: ModelCache,
        on_change: Callable[[], None] = lambda: None,
        on_error: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        self.model_cache = model_cache
        self._on_change = on_change
        self._on_error = on_error
        self._pool = _single_threaded_pool()
        self._lock = threading.Lock()
        self._pending: dict[_Key, Future[None]] = {}
        self._awaited: dict[_Key, Future[None]] = {}
        self._estimators: dict[str, Future[None]] = {}

    def load(self, model: str, controlnet: str, loras: Sequence[str] = ()) -> Future[None]:
        """Start a load, or join the same load in flight.

        Args:
            model: name of the variant.
            controlnet: name of the ControlNet.
            loras: names of LoRAs for the variant.

        Returns:
            A future that raises LoadError if the load fails.
        """
        key = (model, controlnet, tuple(loras))
        with self._lock:
            future = self._pending.get(key)
            if future is not None and not future.done():
                return future
            future = self._pending[key] = self._pool.submit(self._load, *key)
        future.add_done_callback(lambda _: self._on_change())
        return future

    def load_estimator(self, name: str) -> Future[None]:
        """Start loading a depth estimator unless it is resident; the future raises LoadError."""
        with self._lock:
            future = self._estimators.get(name)
            if future is not None and not future.done():
                return future
            if name in self.model_cache.estimators:
                # A resident estimator must not wait for other loads.
                self.model_cache.touch_estimator(name)
                return _DONE
            future = self._estimators[name] = self._pool.submit(self._load_estimator, name)
            return future

    def get_or_start_load(
        self, model: str, controlnet: str, loras: Sequence[str] = ()
    ) -> tuple[SdxlModel, ControlNet] | None:
        """Return both networks, or start their load and return None. Not thread-safe.

        Args:
            model: name of the variant.
            controlnet: name of the ControlNet.
            loras: names of LoRAs that the variant must have loaded.

        Raises:
            LoadError: the load of an earlier call failed; the next call retries.
        """
        key = (model, controlnet, tuple(loras))
        variant, network = self.model_cache.touch(model, controlnet, loras)
        if variant is not None and network is not None:
            self._awaited.pop(key, None)
            return variant, network
        future = self._awaited.get(key)
        if future is not None and future.done():
            del self._awaited[key]
            future.result()
            future = None
        if future is None:
            self._awaited[key] = self.load(*key)
        return None

    @property
    def is_waiting_for_eviction(self) -> bool:
        """Whether a load waits for running requests to end; later requests must not start then."""
        return self.model_cache.eviction_blocked

    def release_memory(self) -> None:
        """Free the variants' rebuildable caches; for the device thread."""
        self.model_cache.release_lora_sets()
        self.model_cache.release_working_copy()

    def close(self) -> None:
        """Cancel queued loads and wait for the current one."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, model: str, controlnet: str, loras: tuple[str, ...]) -> None:
        try:
            self.model_cache.load_variant(model, beside=[controlnet])
            self.model_cache.load_controlnet(controlnet, beside=[model])
            self.model_cache.load_loras(model, loras, beside=[controlnet])
        except LoadError as error:
            self._on_error(error)
            log.exception("load failed", model=model, controlnet=controlnet, reason=str(error))
            raise
        except Exception as error:
            self._on_error(error)
            raise

    def _load_estimator(self, name: str) -> None:
        try:
            self.model_cache.load_estimator(name)
        except LoadError as error:
            self._on_error(error)
            log.exception("load failed", depth_estimator=name, reason=str(error))
            raise


def _single_threaded_pool() -> ThreadPoolExecutor:
    """Return a pool of one thread on which torch does not parallelize.

    With a second OpenMP team, libgomp puts both teams to sleep at every barrier, which doubles the
    duration of a step on a CPU. torch stores the number of threads per thread, fixed at first use,
    and as the default for new threads.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, "load")
    pool.submit(torch.set_num_threads, 1).result()
    pool.submit(torch.get_num_threads).result()
    torch.set_num_threads(threads)
    return pool
