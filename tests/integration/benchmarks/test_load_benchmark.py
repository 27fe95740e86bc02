"""The loading benchmark in small: its set is importable, its stages run and share what is equal."""

from __future__ import annotations

import pytest

from benchmarks.load import (
    BARS,
    Workshop,
    measure_import,
    measure_second_variant,
    take_turns,
)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    workshop = Workshop(tmp_path_factory.mktemp("load"), small=True)
    workshop.make()
    figures = measure_import(workshop)
    assert figures["import_peak_gib"] < BARS["conversion_peak_gib"]
    return workshop


def test_the_engine_takes_steps_with_what_was_imported(workshop: Workshop) -> None:
    results = take_turns(workshop, {"first_step": workshop.stored_weights()}, rounds=1)
    (run,) = results["first_step"]
    assert len(run["ends"]) == 3
    assert run["loaded"] < run["ends"][0] < run["ends"][2]


def test_a_second_variant_brings_its_own_bytes_only(workshop: Workshop) -> None:
    figures = measure_second_variant(workshop)
    assert figures["second_variant_shares_the_rest"]
    assert figures["second_variant_bytes_to_own"] <= 1.02
    assert figures["second_variant_own_bytes"] > 10e6
