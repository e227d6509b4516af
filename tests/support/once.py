"""Trials of a recipe, none of which is made twice."""

from collections.abc import Callable

from mnist_exp.data import Digits
from mnist_exp.notebook.entries import Entry
from mnist_exp.runs.trial import Findings


def once(try_out: Callable[..., Findings]) -> Callable[..., Findings]:
    """`trial.try_out`, but where nothing differs from a trial before: its findings are those. What
    was refused, and what has a teacher, is tried again."""
    known: dict[str, Findings] = {}

    def findings(entry: Entry, train: Digits, held_out: Digits, **settings: object) -> Findings:
        digits = [(len(part), part.images.data_ptr()) for part in (train, held_out)]
        key = repr((entry, digits, sorted(settings.items())))
        if settings["teacher"]:
            return try_out(entry, train, held_out, **settings)
        if key not in known:
            known[key] = try_out(entry, train, held_out, **settings)
        return known[key]

    return findings
