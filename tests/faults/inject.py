"""Faults, really injected, and what they cost: `make test-faults` prints the table.

Each run is a real training that is disturbed at random moments, brought to its end, and compared
with its twin, which nothing disturbed: every point of every metric, to the last bit, and once. A
fault that could not be injected is a failure, too: nobody knows what it costs.
"""

import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
from endings import signals
from outages import outages
from places import full_disks, moves
from surroundings import clocks, double_resumes, same_seed, variables
from trials import Bench, Row, bench


@dataclass(frozen=True)
class Kind:
    """A kind of fault, how often it is injected, and its share of the time."""

    inject: Callable[[Bench, int], Row]
    times: int
    share: float = 1.0


ALL = [
    Kind(partial(signals, sign=signal.SIGKILL), 50, 4),
    Kind(partial(signals, sign=signal.SIGINT), 5),
    Kind(partial(signals, sign=signal.SIGTERM), 5),
    Kind(partial(signals, sign=signal.SIGHUP), 5),
    Kind(moves, 2),
    Kind(full_disks, 3),
    Kind(partial(full_disks, at_the_end=True), 3),
    Kind(outages, 3, 2),
    Kind(double_resumes, 2),
    Kind(same_seed, 2),
    Kind(clocks, 3),
    Kind(variables, 2),
]
FEW = [
    Kind(partial(signals, sign=signal.SIGKILL, each=2), 2),
    Kind(partial(signals, sign=signal.SIGHUP, each=1), 1),
    Kind(full_disks, 1),
    Kind(double_resumes, 1),
    Kind(same_seed, 1),
    Kind(clocks, 1),
    Kind(variables, 1),
]


def table(rows: list[Row]) -> str:
    shown = pd.DataFrame(
        {
            "fault": row.fault, "injected": row.injected, "runs": row.runs,
            "runs lost": row.runs_lost, "points lost": row.points_lost,
            "points doubled": row.points_doubled, "result": row.result,
            "remarks": "; ".join([*row.remarks, *([f"it takes {row.takes}"] if row.takes else [])]),
        } for row in rows
    )  # fmt: skip
    return shown.to_string(index=False)


def inject(
    kinds: list[Kind], models: tuple[int, ...], seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:  # fmt: skip
    """Inject each kind of fault into runs of the models: as often as it says, or less often when
    its share of `seconds` is over. What one leaves of its time is for the others."""
    rows: list[Row] = []
    over = time.monotonic() + seconds
    with bench(models) as place:
        for number, kind in enumerate(kinds):
            begun = time.monotonic()
            share = kind.share / sum(later.share for later in kinds[number:])
            place.end = begun + share * (over - begun)
            row = kind.inject(place, kind.times)
            rows.append(row)
            took = f"{time.monotonic() - begun:.0f} s"
            say(f"{row.fault}: {row.result}, injected {row.injected} times in {took}")
    return rows


if __name__ == "__main__":
    seed = int(sys.argv[1]) if sys.argv[1:] else random.randrange(10**6)
    random.seed(seed)
    print(f"random seed {seed}")
    found = inject(ALL, (3, 6), 560, lambda text: print(text, flush=True))
    print(table(found))
    sys.exit(any(row.failed for row in found))
