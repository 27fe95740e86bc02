"""The model of loads beside painting: the loader waits for one step where tensors wait for each."""

from __future__ import annotations

import pytest
import torch

from benchmarks.load_beside_painting import (
    HOST_BYTES_PER_SECOND,
    STEP_SECONDS,
    load_by_tensor,
    load_by_uploader,
)


def test_loader_waits_for_one_step() -> None:
    tensors = {str(n): torch.zeros(1).half().expand(1000, 1000) for n in range(80)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    waits, seconds = load_by_uploader(tensors)
    assert waits == 1
    assert (
        size / HOST_BYTES_PER_SECOND < seconds < STEP_SECONDS + 1.5 * size / HOST_BYTES_PER_SECOND
    )
    before, slow = load_by_tensor(tensors)
    assert before == 80
    assert slow == pytest.approx(80 * STEP_SECONDS, rel=0.01)
