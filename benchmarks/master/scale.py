"""How far one master goes: 1,000 workers, and the load rate of 4 to 256.

    python -m benchmarks.master.scale protocol     # registration, acknowledgement, assignment
    python -m benchmarks.master.scale load         # against the synchronous loop (see scale_load)

A real `apbmm-master` in a process of its own; all workers in this one, each with its own socket,
key and outbox (see rehearsed_fleet). Two cores are enough for both.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import time
from collections.abc import Sequence

from apbmm_common.protocol.messages import Assign
from apbmm_master.journal.events import Proposed, Record
from benchmarks.master.real_master import place, rehearsal, running
from benchmarks.master.rehearsed_fleet import Fleet, Times, percentile, worker_name
from benchmarks.master.scale_load import CASES, load

GOALS = {"registered": 15.0, "acknowledged": 0.5, "assigned": 1.0}
"""Seconds; the last two for the 99th percentile."""


def protocol(workers: int, evaluations: int, seconds: float, *, curve: bool) -> None:
    """Print how long a large fleet waits for its master."""

    def duration(assign: Assign) -> float:
        return seconds * random.Random(assign.lease).uniform(0.5, 1.5)

    async def measure() -> tuple[list[Times], float, list[Record]]:
        spec = rehearsal("scale", evaluations, min(workers, evaluations), {"name": "sobol"})
        with place([worker_name(n) for n in range(workers)], curve=curve) as where:
            async with running(spec, where) as master:
                began = time.monotonic()
                fleet = Fleet(where.address, workers, where.memory, duration, where.keys)
                seen = await fleet.serve(until=master.wait())
            return seen, began, where.records()

    times, began, records = asyncio.run(measure())
    acknowledged = [wait for worker in times for wait in worker.acknowledged]
    registered = max(worker.welcome for worker in times) - began
    at_work = max(worker.assigned[0][2] for worker in times) - began
    whole, beyond = assignments(times, records)
    security = "CURVE" if curve else "without CURVE"
    print(f"{workers} workers, {security}, {len(acknowledged)} results of {seconds:g} s each")
    print(f"  all registered after {registered:.1f} s (goal {GOALS['registered']:g} s)")
    print(f"  all at work after {at_work:.1f} s, with the start of the search's own process")
    show("RESULT to RESULT_ACK", acknowledged, GOALS["acknowledged"])
    show("idle to ASSIGN beyond the proposal", beyond, GOALS["assigned"])
    show("idle to ASSIGN", whole)


def assignments(
    times: Sequence[Times], records: Sequence[Record]
) -> tuple[list[float], list[float]]:
    """Every wait for work of the search, and what of it was no time of its proposal.

    Only waits that began when the search had: it waits for the references first.
    """
    offset = time.time() - time.monotonic()
    asks: dict[str, tuple[float, float]] = {}
    for record in records:
        if isinstance(record.event, Proposed) and record.event.purpose == "search":
            end = record.time - offset
            span = (end - record.event.seconds, end)
            asks |= {proposal.evaluation: span for proposal in record.event.proposals}
    since = min(end for _, end in asks.values())
    whole, beyond = [], []
    for evaluation, idle, assigned in (wait for worker in times for wait in worker.assigned):
        if idle >= since:
            begin, end = asks[evaluation]
            whole.append(assigned - idle)
            beyond.append(assigned - idle - max(0.0, min(end, assigned) - max(begin, idle)))
    return whole, beyond


def show(name: str, waits: Sequence[float], goal: float = 0.0) -> None:
    """One line of percentiles."""
    middle, high, most = (percentile(waits, share) * 1e3 for share in (0.5, 0.99, 1.0))
    wanted = f" (goal {goal * 1e3:.0f} ms)" if goal else ""
    print(f"  {name}: median {middle:.0f} ms, 99 % within {high:.0f} ms{wanted}, all {most:.0f} ms")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("protocol", help="how long a large fleet waits for its master")
    command.add_argument("--workers", type=int, default=1000)
    command.add_argument("--evaluations", type=int, default=3000)
    command.add_argument("--seconds", type=float, default=20.0, help="of one evaluation")
    command.set_defaults(run=protocol)
    command = commands.add_parser("load", help="load rates, against the synchronous loop")
    command.add_argument("--sizes", type=int, nargs="+", choices=CASES, default=list(CASES))
    command.set_defaults(run=load)
    for command in commands.choices.values():
        command.add_argument("--curve", action=argparse.BooleanOptionalAction, default=True)
    options = vars(parser.parse_args())
    # A fleet says everything as often as it has workers.
    logging.getLogger("apbmm_worker").setLevel(logging.CRITICAL)
    options.pop("run")(**options)


if __name__ == "__main__":
    main()
