"""Several devices as one: each request goes where it will be answered first."""

from __future__ import annotations

from collections.abc import Sequence

from runners.estimates import Answer
from runners.messages import CancelOrder, EstimateJob, PaintJob
from runners.station import Station
from runners.task import Emit


class Pool:
    """The engines of all stations. Thread-safe.

    A request goes to the station that would begin with it first. That a station has the weights
    already counts for it, so requests of a variant gather where it is until a queue is longer than
    a load. A request that joins another by its id follows it, and a session's newer request ends
    the older ones wherever they are.
    """

    def __init__(self, stations: Sequence[Station]) -> None:
        self.stations = stations

    def submit(self, job: PaintJob, emit: Emit) -> None:
        """Queue a job, or join the one of the same id that still runs."""
        for station in self.stations:
            if station.engine.knows(job):
                station.engine.submit(job, emit)
                return
        chosen = min(self.stations, key=lambda station: station.seconds_until(job))
        if job.session is not None:
            for station in self.stations:
                station.estimates.supersede(job.session, job.arrived)
                if station is not chosen:
                    station.engine.supersede(job.session, job.arrived)
        chosen.engine.submit(job, emit)

    def estimate(self, job: EstimateJob, answer: Answer) -> None:
        """Estimate a photograph's depth on one station; see Estimates.submit."""
        chosen = min(
            self.stations, key=lambda station: station.seconds_until_estimate(job.estimator)
        )
        if job.session is not None:
            for station in self.stations:
                station.estimates.supersede(job.session, job.arrived)
        chosen.estimates.submit(job, answer)

    def cancel(self, order: CancelOrder) -> tuple[str, ...]:
        """End what the order names, before the next step; returns the request ids."""
        holders = [
            each for station in self.stations for each in (station.engine, station.estimates)
        ]
        ended = [name for holder in holders for name in holder.cancel(order)]
        return tuple(dict.fromkeys(ended))

    def snapshot(self) -> tuple[int, int, float]:
        """Requests waiting, requests under way, and the seconds until the last of them is done.

        Photographs count as waiting.
        """
        waiting, running, seconds = zip(
            *(station.engine.snapshot() for station in self.stations), strict=True
        )
        photographs = sum(station.estimates.waiting() for station in self.stations)
        return sum(waiting) + photographs, sum(running), max(seconds)

    def full(self) -> float | None:
        """Seconds after which to come back, if no station takes anything more; else None."""
        waits = [station.engine.full() for station in self.stations]
        known = [wait for wait in waits if wait is not None]
        return min(known) if len(known) == len(waits) else None

    def close(self) -> None:
        """Stop every engine after its current step."""
        for station in self.stations:
            station.close()
