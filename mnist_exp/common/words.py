"""Numbers and texts as they are shown everywhere: 99.40 %, +0.12, 1-5 7, "2 epochs"."""

import math
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher


def printable(text: str) -> str:
    """The text in one line that no terminal obeys: with escapes for what cannot be shown."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def counted(number: int, noun: str) -> str:
    """As in "1 epoch" and "2 epochs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """As in "42 s", "3 min 12 s" and, from ten minutes on, "75 min"."""
    if round(seconds) >= 600:
        return f"{round(seconds / 60)} min"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def seeds_named(numbers: Collection[int]) -> str:
    """As in "seed 3" and "seeds 1-5"."""
    return f"seed{'' if len(numbers) == 1 else 's'} {ranges(numbers)}"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in short, as in `1-5 7`."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return " ".join(f"{own[0]}-{own[-1]}" if len(own) > 1 else f"{own[0]}" for own in groups)


def read_ranges(text: str) -> list[int]:
    """The numbers that `ranges` has so."""
    pairs = [part.partition("-")[::2] for part in text.split()]
    return [x for first, last in pairs for x in range(int(first), int(last or first) + 1)]


def guessed(name: str, names: Iterable[str]) -> str:
    """As in "did you mean optimizer.lr? " of optimiser.lr, or of lr alone: what is most like a name
    that there is not. Empty if nothing is much like it."""
    likeness = {other: _likeness(name.split("."), other.split(".")) for other in sorted(names)}
    best = max(likeness.values(), default=0)
    if best < 0.6:
        return ""
    return f"did you mean {' or '.join([x for x in likeness if likeness[x] == best][:3])}? "


def _likeness(parts: list[str], others: list[str]) -> float:
    """How much each part of a name is at least like that of another name, from their ends."""
    if len(parts) > len(others):
        return 0
    ends = zip(reversed(parts), reversed(others), strict=False)
    return min(SequenceMatcher(None, one.lower(), other.lower()).ratio() for one, other in ends)


def percent(fraction: float) -> str:
    """A fraction as it is shown everywhere, as in `99.40 %`; "–" where there is none. `100.00 %` is
    said of a whole alone."""
    if math.isnan(fraction):
        return "–"
    return f"{99.99 if 0.9999 < fraction < 1 else 100 * fraction:.2f} %"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points, as in `+0.12`, and `+0.002` where two
    digits would not tell it from none."""
    return f"{100 * difference:+{'.1g' if 1e-6 <= abs(difference) < 5e-5 else '.2f'}}"
