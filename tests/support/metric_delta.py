"""Growth of this process's metrics during a test."""

from __future__ import annotations

from prometheus_client import REGISTRY


class Growth:
    """What has been counted since this was made."""

    def __init__(self) -> None:
        self._before = self._all()

    def of(self, name: str, /, **labels: str) -> float:
        key = (f"experimance_{name}", tuple(sorted(labels.items())))
        return self._all().get(key, 0.0) - self._before.get(key, 0.0)

    @staticmethod
    def _all() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }
