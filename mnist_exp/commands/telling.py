"""The commands that tell numbers: verdicts, tables and pages.

What loads MLflow or pandas is imported by the command that needs it, so that help is quick.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from mnist_exp.commands.arguments import command
from mnist_exp.commands.settings import Baseline, Model, Models, SeedCount, Switch
from mnist_exp.common.errors import ExpectedError

if TYPE_CHECKING:
    from mnist_exp.evidence.comparison import Comparison


@command
def _check(
    model: Model | None = None,
    seeds: SeedCount | None = None,
    baseline: Baseline | None = None,
    json_: Switch = False,
) -> int:
    """Is the target met on every seed? Or: is MODEL no worse than BASELINE?

    Judges all iterations in the store where MODEL is left out, and demands SEEDS seeds of each.
    Exits with 0 for yes, with 1 for no, and with 2 where nothing can be judged. JSON prints the
    verdicts for other programs.
    """
    from mnist_exp.evidence import comparison
    from mnist_exp.evidence.verdict import Answer

    if baseline is not None:
        return _check_baseline(model, baseline, seeds or 0, json_)
    compared = comparison.compare([model] if model else (), demanded=seeds or 0)
    if not compared.verdicts:
        raise ExpectedError(_uncounted(compared))
    if json_:
        print(json.dumps(compared.records(), indent=2))
    else:
        for verdict in compared.verdicts:
            count = f"{verdict.passing} of {len(verdict.seeds)}"
            print(f"Model {verdict.model}, {verdict.title}: {verdict.answer}, {count}")
            print(f"  {verdict.reason}")
        for number, why in compared.unjudged.items():
            print(f"Model {number}: {Answer.NOT_JUDGED}")
            print(f"  {why}")
    if not all(verdict.met for verdict in compared.verdicts):
        return 1
    return 2 if compared.unjudged else 0


def _check_baseline(model: int | None, baseline: int, seeds: int, as_json: bool) -> int:
    from mnist_exp.evidence import comparison, effect

    if model is None or model == baseline:
        raise ExpectedError("BASELINE= compares MODEL= with another, as in MODEL=8 BASELINE=6")
    compared = comparison.compare([model, baseline])
    for number in (model, baseline):
        if number in compared.uncounted:
            raise ExpectedError(_uncounted(compared, number))
    difference = effect.effect(compared.counting, model, baseline)
    needed = max(effect.FEWEST_PAIRS, seeds)
    if len(difference.seeds) < needed:
        raise ExpectedError(
            f"models {model} and {baseline} have {len(difference.seeds)} seeds in common, and "
            f"{needed} are needed: make run MODEL={model} SEED=..."
        )
    if as_json:
        print(json.dumps(dataclasses.asdict(difference) | {"worse": difference.worse}, indent=2))
    else:
        judged = "is not shown to be worse than"
        if difference.worse or difference.better:
            judged = "is worse than" if difference.worse else "is better than"
        print(f"Model {model} {judged} model {baseline}:")
        print(f"  final test accuracy {difference}")
    return 1 if difference.worse else 0


@command
def _compare(models: Models | None = None) -> int:
    """Print a table of the iterations in the store."""
    from mnist_exp.commands.display import print_verdicts
    from mnist_exp.evidence import comparison

    compared = comparison.compare(models or ())
    if not compared.verdicts:
        raise ExpectedError(_uncounted(compared))
    print_verdicts(compared.verdicts)
    for number, why in compared.uncounted.items():
        print(f"Model {number}: {why}")
    return 0


@command
def _report(models: Models | None = None) -> int:
    """Write the comparison as a page, figures and tables to reports/."""
    from mnist_exp import ROOT
    from mnist_exp.evidence import comparison
    from mnist_exp.reporting.page import write_page
    from mnist_exp.tracking import ui

    compared = comparison.compare(models or ())
    page = write_page(compared, ROOT / "reports")
    ui.prepare_ui(compared.target.last_epochs, page)
    print(f"Written: {page.relative_to(ROOT)}; open it in a browser")
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
    if number is None:
        run = set(compared.uncounted) - set(compared.unrun)
        if not run:
            return "the store holds only candidates that are not in the notebook: make run MODEL=6"
        number = min(run)
    todo = f": make run MODEL={number}" if number in compared.iterations else ""
    return f"model {number}: {compared.uncounted[number]}{todo}"
