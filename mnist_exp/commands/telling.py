"""The commands that tell numbers: verdicts, tables and pages.

What loads MLflow or pandas is imported by the command that needs it, so that help is quick.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from mnist_exp.commands.arguments import command
from mnist_exp.commands.settings import (
    Baseline,
    BaselineOrNone,
    Model,
    Models,
    Name,
    Page,
    Rate,
    RunCount,
    RunIds,
    SeedCount,
    Split,
    Switch,
)
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import counted, printable, ranges

if TYPE_CHECKING:
    from mnist_exp import data
    from mnist_exp.evidence.comparison import Comparison


@command
def _check(
    model: Model | None = None,
    seeds: SeedCount | None = None,
    baseline: Baseline | None = None,
    rate: Rate | None = None,
    split: Split = "test",
    json_: Switch = False,
) -> int:
    """Is the target met on every seed? Or at a RATE? Or: is MODEL no worse than BASELINE?

    Judges all iterations in the store where MODEL is left out, and demands SEEDS seeds of each.
    RATE asks whether seeds pass at least so often, by a test that may be looked at after each seed.
    SPLIT=validation compares with BASELINE where people choose. Exits with 0 for yes, with 1 for
    no, and with 2 where nothing can be judged, or not yet. JSON prints the verdicts for other
    programs.
    """
    from mnist_exp.evidence import comparison

    if baseline is not None:
        if rate is not None:
            raise ExpectedError("RATE= asks about the target, BASELINE= about another: choose one")
        return _check_baseline(model, baseline, split, seeds or 0, json_)
    if split == "validation":
        raise ExpectedError(
            f"SPLIT={split}: the target is about the test split; to choose, compare with another, "
            f"as in MODEL=8 BASELINE=6 SPLIT={split}"
        )
    compared = comparison.compare([model] if model else (), demanded=seeds or 0, split=split)
    if not compared.verdicts:
        raise ExpectedError(_uncounted(compared))
    return _check_rate(compared, rate, json_) if rate else _check_target(compared, json_)


def _check_target(compared: Comparison, as_json: bool) -> int:
    from mnist_exp.commands.passing import print_answer
    from mnist_exp.evidence.verdict import Answer

    if as_json:
        print(json.dumps(compared.records(), indent=2))
    else:
        for verdict in compared.verdicts:
            print_answer(verdict, verdict.answer, verdict.reason)
        for number, why in compared.unjudged.items():
            print(f"Model {number}: {Answer.NOT_JUDGED}")
            print(f"  {why}")
    if not all(verdict.met for verdict in compared.verdicts):
        return 1
    return 2 if compared.unjudged else 0


def _check_rate(compared: Comparison, rate: float, as_json: bool) -> int:
    from mnist_exp.commands.passing import print_answer, rate_of, said_of_rate
    from mnist_exp.evidence.sequential import Settled

    answers, records = set(), []
    for verdict in compared.verdicts:
        asked = rate_of(verdict, rate)
        missing = max(0, verdict.demanded - len(verdict.seeds))
        answer = Settled.GO_ON if missing else asked.answer
        answers.add(answer)
        further = None if asked.further is None else max(missing, asked.further)
        records.append(
            {"model": verdict.model, "rate": rate, "answer": answer.value, "passed": asked.passed,
             "failed": asked.failed, "further_if_all_pass": further}
        )  # fmt: skip
        if not as_json:
            first = 1 + max(verdict.seeds)
            seeds = f"{first}-{first + (further or 0) - 1}"
            command = f"make sweep MODELS={verdict.model} SEEDS={seeds}"
            print_answer(verdict, answer, said_of_rate(answer, rate, further, command))
    if as_json:
        print(json.dumps(records, indent=2))
    if Settled.FAILED in answers:
        return 1
    return 2 if Settled.GO_ON in answers or compared.unjudged else 0


def _check_baseline(
    model: int | None, baseline: int, split: data.Split, seeds: int, as_json: bool
) -> int:
    from mnist_exp.evidence import comparison, effect

    if model is None or model == baseline:
        there = "" if split == "test" else f" SPLIT={split}"
        raise ExpectedError(
            f"BASELINE= compares MODEL= with another, as in MODEL=8 BASELINE=6{there}"
        )
    compared = comparison.compare([model, baseline], split=split)
    for number in (model, baseline):
        if number in compared.uncounted:
            raise ExpectedError(_uncounted(compared, number))
    difference = compared.effect(model, baseline)
    needed = max(effect.FEWEST_PAIRS, seeds)
    if len(difference.seeds) < needed:
        raise ExpectedError(
            f"models {model} and {baseline} have {counted(len(difference.seeds), 'seed')} in "
            f"common, and {needed} are needed: {comparison.to_run(model, split, '..')}"
        )
    if as_json:
        record = dataclasses.asdict(difference) | {"split": split, "worse": difference.worse}
        print(json.dumps(record, indent=2))
    else:
        judged = "is not shown to be worse than"
        if difference.worse or difference.better:
            judged = "is worse than" if difference.worse else "is better than"
        print(f"Model {model} {judged} model {baseline}:")
        print(f"  final {split} accuracy {difference}")
    return 1 if difference.worse else 0


@command
def _compare(
    models: Models | None = None, split: Split | None = None, runs: RunIds | None = None
) -> int:
    """Print a table of the iterations in the store, and what each changed.

    SPLIT=validation compares them where people choose: there is no verdict on the target there.
    What scripts tracked stands below them, whichever MODELS are asked for. RUNS are any runs by
    their ids, which are put side by side, whether they count or not.
    """
    from mnist_exp.commands.display import print_verdicts
    from mnist_exp.evidence import comparison

    if runs is not None:
        if models or split:
            raise ExpectedError("RUNS= are compared as they are: leave MODELS= and SPLIT= out")
        return _compare_runs(runs)
    split = split or "test"
    compared = comparison.compare(models or (), split=split)
    verdicts = [*compared.verdicts, *compared.ideas.verdicts]
    if not verdicts:
        raise ExpectedError(_uncounted(compared))
    if split == "test":
        print_verdicts(verdicts)
    else:
        print(
            f"On the {split} split, by which people choose; the target is about the test split.\n"
        )
        print_verdicts(verdicts)
        print()
    alike: dict[str, list[int]] = {}
    for number, why in compared.uncounted.items():
        alike.setdefault(why, []).append(number)
    for why, numbers in alike.items():
        print(f"Model{'s' * (len(numbers) > 1)} {ranges(numbers)}: {why}")
    for name, why in compared.ideas.uncounted.items():
        print(f"{name}: {why}")
    _print_differences(compared)
    return 0


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
    from mnist_exp.evidence import side_by_side
    from mnist_exp.showing import tables

    side = side_by_side.compare_runs(run_ids)
    runs, groups = tables.shown_side_by_side(side)
    print(f"Scores of the {side.split} split")
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
    name: Name | None = None,
    out: Page | None = None,
) -> int:
    """Write the comparison as a page, reports/comparison.html, with figures and tables beside it.

    With BASELINE the iterations stand side by side, each compared with that one, or with none;
    without, each is compared with the one that it was made from. NAME is the title of the page, and
    OUT where it goes. SPLIT=validation compares where people choose. Each iteration that meets the
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
    compared = comparison.compare(models, split=split)
    if number and number not in compared.iterations:
        comparison.compare([number], split=split)  # says why
    if number in compared.uncounted:
        raise ExpectedError(f"BASELINE={number}: {_uncounted(compared, number)}")
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


def _uncounted(compared: Comparison, number: int | None = None) -> str:
    """Why nothing can be judged, and what to do about it."""
    from mnist_exp.evidence import comparison
    from mnist_exp.evidence.scores import Exclusion

    if number is None:
        run = set(compared.uncounted) - set(compared.unrun)
        if not run:
            todo = comparison.to_run(6, compared.split)
            return f"the store holds only candidates that are not in the notebook: {todo}"
        number = min(run)
    todo = ""
    if compared.split == "test" and number in set(compared.validation_runs["model"]):
        todo = ": SPLIT=validation compares the runs there"  # who chooses isn't sent to the test
    elif number in compared.iterations:
        todo = f": {comparison.to_run(number, compared.split)}"
    if Exclusion.OVERRIDDEN in compared.uncounted[number]:
        todo += '; make compare RUNS="3f2a 9c1d" compares any runs, and make runs lists their ids'
    return f"model {number}: {compared.uncounted[number]}{todo}"
