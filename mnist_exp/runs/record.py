"""What a run records: at its beginning, after each epoch, and at its end."""

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from mnist_exp import data, tracking
from mnist_exp.evidence import mistakes, scores, verdict
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.recipe import Target
from mnist_exp.runs import check, checkout
from mnist_exp.runs.plan import Plan
from mnist_exp.showing import description, fields, one_run
from mnist_exp.tracking import names, ui
from mnist_exp.tracking.names import Figure, Table, TextFile
from mnist_exp.training import classifier, transforms
from mnist_exp.training.loop import EpochResult, Training
from mnist_exp.training.receptive_field import ReceptiveField

log = logging.getLogger(__name__)

SHEET = 32
"""Training digits on the sheet that shows what the network sees."""


def beginning(run: tracking.RunWriter, plan: Plan) -> None:
    """Record what is known before the first epoch: description, source, layers, digits, and where
    the code stands."""
    entry = plan.entry
    run.set_tags({"idea": entry.title} | _certainty(plan))
    run.describe(description.run_description(entry, "In training."))
    run.log_metrics({"parameters": plan.parameters, "model": entry.number})
    run.log_text(entry.source, names.source_file(entry.number))
    for name, text in entry.helpers.items():
        run.log_text(text, names.helper_file(name))
    write_code(run)
    write_layers(run, plan.receptive_field, plan.layers)
    for digits, context in (
        (plan.train, names.DataSet.TRAINING),
        (plan.held_out, names.DataSet.EVALUATION),
    ):
        name = f"MNIST, {len(digits):,} digits"
        run.log_dataset(
            digits.images.cpu().numpy(), digits.labels.cpu().numpy(), name=name, context=context,
            digest=digits.sha256(), source=data.ORIGIN,
        )  # fmt: skip
    some = plan.train[:SHEET]
    # Of the file executed anew: what is drawn here must not change what the run is trained with.
    recipe = check.recipe_from(entry, plan.seed, plan.overrides)
    torch.manual_seed(plan.seed)
    drawing = torch.Generator().manual_seed(plan.seed)
    seen, labels = classifier.network_input(recipe, some, drawing)
    called = transforms.classes(labels)[:SHEET]  # an augmentation may make more of them
    title = "Training digits as the network sees them"
    sheet = one_run.digit_sheet(seen[:SHEET, 0].numpy(), called.numpy(), title)
    run.log_figure(sheet, Figure.DIGITS)


def write_code(run: tracking.RunWriter) -> None:
    """Record where the checkout stands in git."""
    state, uncommitted = checkout.git_state()
    commit = state["git_commit"]
    run.set_tags(state | ({} if commit == "unknown" else {names.COMMIT: commit}))
    if uncommitted:
        run.log_text(uncommitted, TextFile.UNCOMMITTED)


def write_layers(run: tracking.RunWriter, receptive_field: ReceptiveField, listed: str) -> None:
    """Record the layers of a network, as they are `listed`, and what each sees."""
    run.log_text(listed, TextFile.LAYERS)
    table = receptive_field.table
    if table is not None:
        run.log_table(table, Table.RECEPTIVE_FIELD)
        drawn = fields.receptive_field_growth(table, receptive_field.unknown)
        run.log_figure(drawn, Figure.RECEPTIVE_FIELD)


def _certainty(plan: Plan) -> dict[str, str]:
    """What the trial of the recipe says of the numbers of the run, as tags."""
    tags = {"resumes": plan.findings.not_exact or scores.EXACTLY}
    others = {
        "cautions": "; ".join(plan.findings.cautions),
        names.THROUGH_TORCH: ", ".join(plan.findings.through_torch),
    }
    return tags | {name: text for name, text in others.items() if text}


@dataclass(frozen=True)
class EpochRecord:
    """What is recorded of an epoch: its metrics by name, and when it `ended` (s since 1970)."""

    number: int
    ended: float
    metrics: Mapping[str, float]


def epoch_record(result: EpochResult, split: str) -> EpochRecord:
    """What is recorded of an epoch of a training on a split."""
    return EpochRecord(result.epoch, result.ended, metrics(result, split))


class Epochs:
    """Writes the epochs of a run to the store, each once.

    While the store does not answer, epochs wait. `waiting` are those that wait from the beginning;
    of a run that is `resumed`, the store may have some of them.
    """

    def __init__(
        self, run: tracking.RunWriter, waiting: Iterable[EpochRecord] = (), *, resumed: bool = False
    ) -> None:
        self.run, self.waiting = run, deque(waiting)
        # The store is ahead of a checkpoint that was put back from an older copy. An epoch that it
        # has in part only is written again, of which no point is entered twice.
        history = tracking.history([run.run_id]).dropna() if resumed else pd.DataFrame()
        self.recorded = set() if history.empty else set(history["epoch"])

    def add(self, ended: EpochRecord) -> None:
        """Write an epoch and those that wait, if the store answers."""
        was_away = bool(self.waiting)
        self.waiting.append(ended)
        try:
            if was_away:
                tracking.check_answers()
            self.write()
        except tracking.UnreachableError as error:
            if not was_away:
                log.warning("%s; the training goes on, and its epochs wait for the store", error)
        else:
            if was_away:
                log.warning("the tracking store answers again, and has all epochs")

    def write(self) -> None:
        """Write all that wait; raises tracking.UnreachableError when the store does not answer."""
        while self.waiting:
            first = self.waiting[0]
            if first.number not in self.recorded:
                self.run.log_metrics(first.metrics, first.number, first.ended)
            self.waiting.popleft()


def end(run: tracking.RunWriter, plan: Plan, training: Training) -> RunVerdict | None:
    """Record what the epochs came to: summaries, mistakes, figures, the network, and the verdict,
    which is returned; None on the validation split, of which the target says nothing."""
    _mistakes(run, plan, training)
    final, judged = write_scores(
        run, split=plan.split, images=len(training.evaluation), parameters=plan.parameters,
        target=plan.target,
    )  # fmt: skip
    meets_target = judged is not None and judged.met and not plan.overrides
    why_not_kept = keep_network(
        run, training.classifier, training.evaluation.images[:2],
        register_as=plan.entry.name if meets_target else None,
    )  # fmt: skip
    table = ui.run_path(run.experiment_id, run.run_id, Table.RECEPTIVE_FIELD.json)
    followed = plan.receptive_field.size is not None
    run.describe(
        description.of_ended_run(
            plan.entry, split=plan.split, fold=plan.fold, accuracy=final, verdict=judged,
            receptive_field=str(plan.receptive_field) if followed else "",
            table=table if followed else "", metrics=training.results[-1].metrics,
            overridden=plan.overridden, engine=plan.engine.words, why_not_kept=why_not_kept,
        )
    )  # fmt: skip
    return judged


def write_scores(
    run: tracking.RunWriter, *, split: str, images: int, parameters: int, target: Target
) -> tuple[float, RunVerdict | None]:
    """Record what the epochs of the run come to: summaries, curves and the verdict. Returns the
    accuracy after the last epoch (a fraction) and the verdict."""
    history = tracking.history([run.run_id])
    row = {"run_id": run.run_id, "parameters": parameters, "split": split}
    runs = pd.DataFrame([row | {names.images(split): images}])
    score = runs.join(scores.scores(runs, history, target)).iloc[0]
    summary = {
        names.best(split): score["best_accuracy"],
        names.final(split): score["final_accuracy"],
        names.worst_of_last(target.last_epochs, split): score["worst_accuracy"],
    }
    run.log_metrics({key: round(100 * x, 4) for key, x in summary.items() if not pd.isna(x)})
    run.log_figure(one_run.curves(history, split, target), Figure.CURVES)
    judged = verdict.judge_run(score, target) if split == "test" else None
    if judged:
        reason = {} if judged.met else {"verdict_reason": judged.reason}
        run.set_tags({"verdict": str(judged)} | reason)
    return score["final_accuracy"], judged


def keep_network(
    run: tracking.RunWriter, trained: nn.Module, images: Tensor, register_as: str | None = None
) -> str:
    """Keep a network with the run; returns why it could not be kept, or ""."""
    try:
        run.log_network(trained, images, register_as)
    except tracking.ExportError as error:
        log.warning("the network is not kept: %s", error)
        return str(error)
    return ""


def _mistakes(run: tracking.RunWriter, plan: Plan, training: Training) -> None:
    """Record which digits the trained network takes for which, and each that it gets wrong."""
    wrong = mistakes.of_output(training.evaluation, training.output)
    wrong.record(run)
    count = f"{len(wrong.images)} of {len(training.evaluation):,}"
    title = f"{plan.name}: {count} {plan.split} digits wrong at the end"
    run.log_figure(one_run.confusion_matrix(wrong.counts, title), Figure.CONFUSION_MATRIX)


def metrics(result: EpochResult, split: str) -> dict[str, float]:
    """What is recorded of an epoch, by name: accuracies are fractions, losses mean cross-entropies
    in nats. Of the recipe's own metrics, those that are numbers are recorded."""
    measured = {name: x for name, x in result.metrics.items() if math.isfinite(x)}
    return {
        names.accuracy("train"): result.train.accuracy,
        names.loss("train"): result.train.loss,
        names.accuracy(split): result.evaluation.accuracy,
        names.loss(split): result.evaluation.loss,
        names.errors(split): result.evaluation.errors,
        names.LEARNING_RATE: result.learning_rate,
        names.EPOCH_SECONDS: result.seconds,
        **{names.metric(split, name): value for name, value in measured.items()},
    }
