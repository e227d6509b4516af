"""`python -m benchmarks [names]`: measure, and write benchmarks/RESULTS.md.

Exits with 1 when a goal was missed. Leave the machine alone meanwhile. `agreement --full` trains
for hours, beside whatever else.
"""

import argparse
import sys

from benchmarks import (
    agreement,
    before,
    epoch,
    kernels,
    overhead,
    section,
    step,
    store,
    sweep,
    tried,
)

BENCHMARKS = {
    "epoch": epoch,
    "before": before,
    "step": step,
    "kernels": kernels,
    "tried": tried,
    "sweep": sweep,
    "overhead": overhead,
    "store": store,
    "agreement": agreement,
}


def main() -> int:
    """Measure what is named, all by default; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    first = "first train the whole runs that agreement compares, as far as its table lacks them"
    parser.add_argument("--full", action="store_true", help=first)
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}"
        )
    if arguments.full and "agreement" not in names:
        parser.error("--full is for agreement: python -m benchmarks agreement --full")
    if arguments.full:
        agreement.complete()
    missed = False
    for name in names:
        found = BENCHMARKS[name].measure()
        section.write(found)
        print(found, flush=True)
        missed |= bool(found.missed)
    return int(missed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted: what was found by then is kept", file=sys.stderr)
        sys.exit(130)
