"""The cost model: learned costs and the batch limit."""

from __future__ import annotations

import pytest

from runners.engine.cost_model import CostModel


def test_unmeasured_work_has_zero_cost() -> None:
    assert CostModel().seconds("base", "full", 65536, 20, 1) == 0.0


def test_cost_follows_pixels_steps_and_pictures() -> None:
    cost = CostModel()
    cost.observe_step("base", 1000, 0.5)
    cost.observe_decode("base", "full", 1000, 0.25)
    assert cost.seconds("base", "full", 2000, 6, 2) == pytest.approx(2 * (6 * 0.5 + 2 * 0.25))
    cost.observe_decode("base", "tiny", 1000, 0.05)
    assert cost.seconds("base", "tiny", 1000, 0, 2) == pytest.approx(2 * 0.05)
    cost.observe_encode("base", False, 1000, 0.1)
    cost.observe_encode("base", True, 1000, 0.3)
    assert cost.encode_seconds("base", False, 2000) == pytest.approx(0.2)
    assert cost.encode_seconds("base", True, 2000) == pytest.approx(0.6)
    assert cost.encode_seconds("hyper", False, 2000) == 0.0
    cost.observe_step("base", 1000, 1.0)
    assert 3.0 < cost.seconds("base", "full", 1000, 6, 0) < 6.0


def test_slower_counts_sooner_than_faster() -> None:
    cost = CostModel()
    cost.observe_step("base", 1, 1.0)
    lowest = float("inf")
    for number in range(200):
        cost.observe_step("base", 1, 1.2 if number % 2 else 0.8)
        if number > 100:
            lowest = min(lowest, cost.seconds("base", "full", 1, 1, 0))
    assert 1.05 < lowest < 1.2


def test_a_cold_first_step_is_soon_forgotten() -> None:
    cost = CostModel()
    cost.observe_step("base", 1, 20.0)
    for _ in range(15):
        cost.observe_step("base", 1, 1.0)
    assert cost.seconds("base", "full", 1, 1, 0) < 2.1
    for _ in range(100):
        cost.observe_step("base", 1, 1.0)
    assert cost.seconds("base", "full", 1, 1, 0) == pytest.approx(1.0, abs=0.1)


def test_outlier_is_damped_and_trend_is_learned() -> None:
    cost = CostModel()
    cost.observe_step("base", 1, 1.0)
    cost.observe_step("base", 1, 100.0)
    assert cost.seconds("base", "full", 1, 1, 0) == pytest.approx(1.2)
    for _ in range(40):
        cost.observe_step("base", 1, 100.0)
    assert cost.seconds("base", "full", 1, 1, 0) > 90.0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, 1),
        ({1: 1.0, 2: 1.1, 4: 2.2, 8: 4.4}, 2),
        ({1: 1.0, 2: 1.1, 4: 1.3, 8: 1.6}, 8),
        ({1: 1.0, 2: 1.5, 4: 2.0, 8: 4.0}, 4),
    ],
)
def test_batches_grow_while_a_row_gets_cheaper(seconds: dict[int, float], expected: int) -> None:
    cost = CostModel()
    cost.calibrate(seconds.__getitem__)
    assert cost.max_batch_rows == expected
