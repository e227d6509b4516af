"""The command that answers with its exit code: is the target met, or one iteration worse?"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from mnist_exp.commands.arguments import command
from mnist_exp.commands.settings import Baseline, Fold, Model, Rate, SeedCount, Split, Switch
from mnist_exp.commands.uncounted import print_lacking, why_uncounted
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import counted

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
    fold: Fold | None = None,
    json_: Switch = False,
) -> int:
    """Is the target met on every seed? Or at a RATE? Or: is MODEL no worse than BASELINE?

    Judges all iterations in the store where MODEL is left out, and demands SEEDS seeds of each.
    RATE asks whether seeds pass at least so often, by a test that may be looked at after each seed.
    SPLIT=validation compares with BASELINE where people choose, on a FOLD or on all. Exits with 0
    for yes, with 1 for no, and with 2 where nothing can be judged, or not yet. JSON prints the
    verdicts for other programs.
    """
    from mnist_exp.evidence import comparison

    if baseline is not None:
        if rate is not None:
            raise ExpectedError("RATE= asks about the target, BASELINE= about another: choose one")
        return _check_baseline(model, baseline, split, fold, seeds or 0, json_)
    if split == "validation":
        raise ExpectedError(
            f"SPLIT={split}: the target is about the test split; to choose, compare with another, "
            f"as in MODEL=8 BASELINE=6 SPLIT={split}"
        )
    compared = comparison.compare([model] if model else (), seeds or 0, split, fold)
    if not compared.verdicts:
        raise ExpectedError(why_uncounted(compared))
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
        answer = asked.answer
        if missing and answer is Settled.PASSED:
            answer = Settled.GO_ON
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
    model: int | None, baseline: int, split: data.Split, fold: str | None, seeds: int,
    as_json: bool,
) -> int:  # fmt: skip
    from mnist_exp.data.splits import asked_fold, split_as_set, split_in_words
    from mnist_exp.evidence import comparison, effect

    fold = asked_fold(split, fold)
    if model is None or model == baseline:
        raise ExpectedError(
            "BASELINE= compares MODEL= with another, as in MODEL=8 BASELINE=6"
            f"{split_as_set(split, fold)}"
        )
    compared = comparison.compare([model, baseline], split=split, fold=fold)
    for number in (model, baseline):
        if number in compared.uncounted:
            raise ExpectedError(why_uncounted(compared, number))
    difference = compared.effect(model, baseline)
    needed = max(effect.FEWEST_PAIRS, seeds)
    if len(difference.seeds) < needed:
        raise ExpectedError(
            f"models {model} and {baseline} have {counted(len(difference.seeds), 'seed')} in "
            f"common, and {needed} are needed: {comparison.to_run(model, split, fold, '..')}"
        )
    if as_json:
        record = dataclasses.asdict(difference) | {"split": split, "fold": fold}
        print(json.dumps(record | {"worse": difference.worse}, indent=2))
    else:
        judged = "is not shown to be worse than"
        if difference.worse or difference.better:
            judged = "is worse than" if difference.worse else "is better than"
        where = f" on the {split_in_words(split, fold)}" if fold else ""
        print(f"Model {model} {judged} model {baseline}{where}:")
        print(f"  final {split} accuracy {difference}")
        print_lacking(compared)
    return 1 if difference.worse else 0
