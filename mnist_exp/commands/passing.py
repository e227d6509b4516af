"""Whether seeds pass at a rate, in words: for `make check RATE=`, and for sweeps that ask so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_exp.common.words import counted, percent, ranges
from mnist_exp.evidence.sequential import PassRate, Settled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnist_exp.evidence.verdict import Verdict
    from mnist_exp.runs.sweep import Sweep


def rate_of(verdict: Verdict, rate: float) -> PassRate:
    """What the seeds of a verdict say of a rate."""
    return PassRate(rate, verdict.passing, len(verdict.seeds) - verdict.passing)


def said_of_rate(answer: Settled, rate: float, further: int | None, command: str) -> str:
    """What an answer means; where it is to go on, how many further seeds would settle that it
    passes, and by which `command`."""
    if answer is Settled.PASSED:
        return f"at least {percent(rate)} of seeds pass, wrongly said once in 20 at most"
    if answer is Settled.FAILED:
        return f"fewer than {percent(rate)} pass, wrongly said once in 20 at most"
    said = f"whether {percent(rate)} of seeds pass is not settled"
    if further is None:
        return f"{said}, nor would a thousand further seeds settle it"
    seeds = counted(further, "further seed")
    return f"{said}; {seeds} would settle it, if all passed: {command}"


def print_answer(verdict: Verdict, answer: str, reason: str, more: str = "") -> None:
    """Two lines: how many seeds pass, and what that means."""
    count = f"{verdict.passing} of {len(verdict.seeds)}"
    print(f"Model {verdict.model}, {verdict.title}: {answer}, {count}{more}")
    print(f"  {reason}")


def print_rates(asked: Sweep, verdicts: Iterable[Verdict], rate: float) -> None:
    """What the seeds of a sweep say of a rate, and how many of them were not trained."""
    print()
    for verdict in verdicts:
        seen = rate_of(verdict, rate)
        left = set(asked.seeds) - set(verdict.seeds)
        further = seen.further
        beyond = max(0, (further or 0) - len(left))
        after = 1 + max(asked.seeds)
        seeds = ranges({*asked.seeds, *range(after, after + beyond)})
        command = f'make sweep MODELS={verdict.model} SEEDS="{seeds}" RATE={rate:g} STOP=1'
        more = f"; {counted(len(left), 'seed')} of {len(asked.seeds)} not trained" if left else ""
        said = said_of_rate(seen.answer, rate, further, command)
        print_answer(verdict, seen.answer, said, more)
