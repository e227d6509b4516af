"""`python -m benchmarks [names]`: measure, and write benchmarks/RESULTS.md.

Exits with 1 when a goal was missed. Leave the machine alone meanwhile.
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
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}"
        )
    missed = False
    for name in names:
        found = BENCHMARKS[name].measure()
        section.write(found)
        print(found, flush=True)
        missed |= bool(found.missed)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
