"""The start of the service: ready line and phases."""

from __future__ import annotations

from tests.support.observed_service import Observed, ready_lines


def test_start_logs_ready_once_and_the_time_of_each_phase(observed: Observed) -> None:
    # After its line the runner may take too long to say so, but never says otherwise.
    assert all("does not respond" in text for text in observed.refusals), observed.refusals
    phases = [line for line in observed.lines() if line["event"] == "boot"]
    assert [phase["phase"] for phase in phases] == ["imports", "store", "load", "warm_up", "ready"]
    *parts, total = (phase["seconds"] for phase in phases)
    # Each is rounded to a millisecond.
    assert 0 < sum(parts) <= total + 0.005
    assert list(phases[3]["pictures"]) == ["256"]
    body = {"prompt": "hills", "mock_depth": True, "steps": 2}
    assert observed.client.post("/generate", json=body).status_code == 200
    assert ready_lines(observed.log) == 1
