"""The commands that tell numbers: tables and pages.

What loads MLflow or pandas is imported by the command that needs it, so that help is quick.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mnist_exp.commands.arguments import command
from mnist_exp.commands.settings import (
    BaselineOrNone,
    Fold,
    Models,
    Name,
    Page,
    RunCount,
    RunIds,
    Split,
)
from mnist_exp.commands.uncounted import print_lacking, why_uncounted
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import printable, ranges

if TYPE_CHECKING:
    from mnist_exp.evidence.comparison import Comparison


@command
def _compare(
    models: Models | None = None, split: Split | None = None, fold: Fold | None = None,
    runs: RunIds | None = None,
) -> int:  # fmt: skip
    """Print a table of the iterations in the store, and what each changed.

    SPLIT=validation compares them where people choose: there is no verdict on the target there.
    FOLD is one of its folds, or all of them, whose errors are added. What scripts tracked stands
    below them, whichever MODELS are asked for. RUNS are any runs by their ids, which are put side
    by side, whether they count or not.
    """
    from mnist_exp.commands.display import print_verdicts
    from mnist_exp.data.splits import folds_named, split_in_words
    from mnist_exp.evidence import comparison

    if runs is not None:
        if models or split or fold:
            raise ExpectedError(
                "RUNS= are compared as they are: leave MODELS=, SPLIT= and FOLD= out"
            )
        return _compare_runs(runs)
    split = split or "test"
    compared = comparison.compare(models or (), split=split, fold=fold)
    verdicts = [*compared.verdicts, *compared.ideas.verdicts]
    if not verdicts:
        raise ExpectedError(why_uncounted(compared))
    if split == "test":
        print_verdicts(verdicts)
    else:
        where = split_in_words(split, compared.fold)
        print(f"On the {where}, by which people choose; the target is about the test split.")
        if others := compared.other_folds():
            print(f"There are runs on {folds_named(others)}, too: FOLD= chooses.")
        print()
        print_verdicts(verdicts)
        print()
    _print_uncounted(compared)
    _print_differences(compared)
    return 0


def _print_uncounted(compared: Comparison) -> None:
    alike: dict[str, list[int]] = {}
    for number, why in compared.uncounted.items():
        alike.setdefault(why, []).append(number)
    for why, numbers in alike.items():
        print(f"Model{'s' * (len(numbers) > 1)} {ranges(numbers)}: {why}")
    for name, why in compared.ideas.uncounted.items():
        print(f"{name}: {why}")
    print_lacking(compared)


def _print_differences(compared: Comparison) -> None:
    from mnist_exp.commands.display import print_effects, print_effects_on_both

    effects = [effect for effect in compared.effects if effect.seeds]
    if compared.split != "test":
        print_effects(effects, compared.split)
        return
    on_worst = [compared.effect(e.model, e.baseline, "worst_accuracy") for e in effects]
    print_effects_on_both(list(zip(on_worst, effects, strict=True)))


def _compare_runs(run_ids: list[str]) -> int:
    from mnist_exp.commands.display import print_effects, print_table
    from mnist_exp.data.splits import split_in_words
    from mnist_exp.evidence import side_by_side
    from mnist_exp.showing import tables

    side = side_by_side.compare_runs(run_ids)
    runs, groups = tables.shown_side_by_side(side)
    print(f"Scores of the {split_in_words(side.split, side.fold)}")
    if side.split == "test":
        print(
            "Choose on the validation split: what is chosen by test scores is not tested by them."
        )
    print()
    print_table(runs, ["model", "status", "not paired"])
    print("\nRuns of a group differ in their seeds alone:\n")
    print_table(groups, ["group"])
    print_effects(side.effects, side.split, tables.group_name)
    return 0


@command
def _runs(count: RunCount = 20, models: Models | None = None) -> int:
    """List the newest runs, by the beginnings of their ids.

    A run that counts speaks for its iteration; the others say what they override, or why not.
    """
    from mnist_exp.commands.display import print_table
    from mnist_exp.evidence import listing
    from mnist_exp.showing import tables

    listed = listing.newest_runs(count, models or ())
    if listed.runs.empty:
        of_models = f" of model {ranges(models)}" if models else ""
        number = models[0] if models else 6
        raise ExpectedError(f"the store holds no run{of_models}: make run MODEL={number}")
    print_table(tables.shown_runs(listed), ["model", "split", "status", "counts"])
    if len(listed.runs) < listed.total:
        print(
            f"\nThe newest {len(listed.runs)} of {listed.total:,}: COUNT={listed.total} lists all"
        )
    return 0


@command
def _watch() -> int:
    """Show the runs under way, of any process or machine, as the store hears of them.

    Goes on until Ctrl-C; where there is no terminal, it says once what is under way, and ends.
    """
    from mnist_exp.commands import watching

    watching.watch()
    return 0


@command
def _report(
    models: Models | None = None,
    baseline: BaselineOrNone | None = None,
    split: Split = "test",
    fold: Fold | None = None,
    name: Name | None = None,
    out: Page | None = None,
) -> int:
    """Write the comparison as a page, reports/comparison.html, with figures and tables beside it.

    With BASELINE the iterations stand side by side, each compared with that one, or with none;
    without, each is compared with the one that it was made from. NAME is the title of the page, and
    OUT where it goes. SPLIT=validation compares where people choose, on a FOLD or on all. Each
    iteration that meets the
    target has a model card beside the page, which its registered model shows, too.
    """
    from mnist_exp import ROOT
    from mnist_exp.evidence import comparison
    from mnist_exp.notebook import entries
    from mnist_exp.reporting.cards import write_cards
    from mnist_exp.reporting.layout import Layout
    from mnist_exp.reporting.page import refuse_place, write_page
    from mnist_exp.tracking import ui

    page = out or ROOT / "reports" / "comparison.html"
    refuse_place(page)
    number = baseline or None  # 0 is none
    models = sorted({*models, *([number] if number else [])}) if models else []
    compared = comparison.compare(models, split=split, fold=fold)
    if number and number not in compared.iterations:
        comparison.compare([number], split=split, fold=fold)  # says why
    if number in compared.uncounted:
        raise ExpectedError(f"BASELINE={number}: {why_uncounted(compared, number)}")
    layout = Layout(side_by_side=baseline is not None, baseline=number)
    write_page(compared, page, dataclasses.replace(layout, title=name) if name else layout)
    if split == "test":
        write_cards(compared, page.with_name(f"{page.stem}_files") / "cards")
    ui.prepare_ui(compared.target.last_epochs, page, iterations=entries.numbers())
    print(f"Written: {printable(entries.shown_path(page))}; open it in a browser")
    return 0


@command
def _results() -> int:
    """Write experiments/RESULTS.md, results/ and the table in README.md from the store."""
    from mnist_exp import ROOT
    from mnist_exp.evidence import comparison
    from mnist_exp.reporting.publish import publish, write_summary

    compared = comparison.compare()
    page = publish(compared)
    write_summary(compared)
    print(f"Written: {page.relative_to(ROOT)}, results/ beside it, and the table in README.md")
    return 0
