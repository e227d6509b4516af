"""The commands that make numbers: runs, and the files that say how.

What loads torch or MLflow is imported by the command that needs it, so that help is quick.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_exp.commands.arguments import command
from mnist_exp.commands.settings import (
    ClassName,
    Count,
    Device,
    Engine,
    Epochs,
    Fold,
    Grid,
    Like,
    Model,
    Models,
    Name,
    NewModel,
    Overrides,
    PythonFile,
    Rate,
    RunId,
    Scheduler,
    Seed,
    Seeds,
    Source,
    Split,
    Switch,
)
from mnist_exp.common import startup
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnist_exp import data
    from mnist_exp.runs.plan import Plan
    from mnist_exp.runs.run import Outcome
    from mnist_exp.runs.sweep import Sweep
    from mnist_exp.runs.worker import JobResult

WITHOUT = (
    "TOGETHER= trains in this process, by torch: without WORKERS=, SCHEDULER= and ENGINE=compiled"
)


@command
def _run(
    model: Model,
    seed: Seed = 1,
    epochs: Epochs | None = None,
    set_: Overrides = "",
    device: Device = "auto",
    engine: Engine = "auto",
    split: Split = "test",
    fold: Fold | None = None,
    resume: Switch = False,
) -> int:
    """Train an iteration and record it.

    SET gives fields of its recipe other values; the run is then overridden, and does not count.
    DEVICE is auto, cpu, cuda or mps; ENGINE is auto, compiled or torch: auto takes the compiled one
    on a processor if it can be had. SPLIT is test or validation, of which FOLD says who is held
    out: writers 1 to 6, or all in turn, or the last digits. RESUME goes on with the newest
    unfinished run of these settings.
    """
    asked, folds = _folds(split, fold, resume=resume)
    with startup.loading():
        from mnist_exp import tracking

        tracking.check_answers()  # before torch takes its seconds
        from mnist_exp.notebook.entries import read_entry
        from mnist_exp.runs import overrides, run  # noqa: F401 (which _carry_out needs)
        from mnist_exp.runs.plan import check_request, settle

    wanted = overrides.read(set_, epochs)
    for held_out in folds[1:]:  # before the first is trained
        check_request(read_entry(model), seed, wanted, split, held_out)
    outcomes = []
    for held_out in folds:
        own: Any = {"split": split, "fold": held_out, "device": device, "engine": engine}
        plan = settle(model, seed=seed, overrides=wanted, **own)
        outcomes.append(_carry_out(_going_on(plan) if resume else plan))
    if len(folds) > 1:
        _print_pooled([outcome.run_id for outcome in outcomes], asked)
    return 0


def _folds(
    split: Split, fold: str | None, *, resume: bool
) -> tuple[str | None, Sequence[data.Fold | None]]:
    """What is asked for, and the folds of it, one by one."""
    from mnist_exp.data.splits import asked_fold, each_fold

    asked = asked_fold(split, fold)
    folds = each_fold(asked)
    if resume and len(folds) > 1:
        raise ExpectedError(
            f"RESUME= goes on with one run, and FOLD={asked} is {len(folds)} of them: make sweep "
            "trains those that are missing"
        )
    return asked, folds


def _going_on(plan: Plan) -> Plan:
    """The newest unfinished run of the same settings."""
    from mnist_exp.runs import resume as resuming

    unfinished = resuming.unfinished(plan)
    if unfinished is None:
        raise ExpectedError(
            f"there is no unfinished run of model {plan.entry.number} to resume with this code, "
            "seed, split, fold, overrides, versions, engine and threads: leave RESUME out"
        )
    return unfinished


def _print_pooled(run_ids: Sequence[str], fold: str | None) -> None:
    """What the runs on all folds come to together."""
    from mnist_exp.commands.display import print_verdicts
    from mnist_exp.evidence import comparison

    print("\nOn all folds, with their errors added:\n")
    print_verdicts(comparison.of_runs(run_ids, fold))


@command
def _resume(run_: RunId) -> int:
    """Go on with a run that ended early."""
    from mnist_exp.runs import resume

    _carry_out(resume.resume(run_))
    return 0


@command
def _reproduce(run_: RunId) -> int:
    """Train a recorded run again, and compare every epoch.

    Exits with 0 for the same numbers, and with 1 for others.
    """
    from mnist_exp.common.words import percent
    from mnist_exp.notebook import loading
    from mnist_exp.runs import reproduce

    reproduction = reproduce.prepare(run_)
    epochs = counted(len(reproduction.history), "epoch")
    print(f"{reproduction.name} (run {reproduction.run_id}) is trained again: {epochs}")
    print(f"  engine {reproduction.engine}")
    for name, was, now in reproduction.differences:
        print(f"  {name} was {was}, and is {now} here")
    for caution in reproduction.cautions:
        print(f"  take care: {caution}")
    pairs = []
    for pair in reproduce.repeat(reproduction):
        pairs.append(pair)
        same = "the same" if pair.identical else f"recorded {percent(pair.recorded_accuracy)}"
        print(
            f"epoch {pair.epoch:2}  {reproduction.split} {percent(pair.accuracy)}, {same}",
            flush=True,
        )
    agreement = reproduce.agree(pairs, loading.load_target().last_epochs)
    print(agreement)
    return 0 if agreement.reproduced else 1


def _carry_out(plan: Plan) -> Outcome:
    from mnist_exp import tracking
    from mnist_exp.commands import terminal
    from mnist_exp.commands.display import ProgressDisplay
    from mnist_exp.runs import run
    from mnist_exp.showing import description

    _print_plan(plan)
    bar = plan.target.test_accuracy
    with ProgressDisplay(plan.recipe.epochs, plan.split, bar) as display:
        outcome = run.carry_out(plan, on_batch=display.batch, on_epoch=display.epoch)
    if outcome.verdict:
        for line in description.verdict_lines(outcome.verdict).splitlines():
            terminal.say(line, indent=7)
    else:
        print("Not judged: the target is about the test split.")
    if plan.overrides:
        number = plan.entry.number
        print(f"Overridden ({plan.overridden}), so it does not count for model {number}.")
    print(f"See it: {'' if tracking.is_served() else 'make ui, then '}{outcome.address}")
    return outcome


def _print_plan(plan: Plan) -> None:
    from mnist_exp.commands import terminal
    from mnist_exp.data.splits import split_in_words
    from mnist_exp.evidence.forecasts import unread_forecasts
    from mnist_exp.training.loop import TrainDigits

    print(f"Model {plan.entry.number}: {plan.entry.title}")
    print(f"  {plan.parameters:,} parameters, receptive field {plan.receptive_field}")
    epochs = f"{plan.recipe.epochs} epoch{'s' if plan.recipe.epochs > 1 else ''}"
    where = f"device {plan.device.type}, engine {plan.engine.name}"
    how = f"seed {plan.seed}, {where}, {epochs}, {split_in_words(plan.split, plan.fold)}"
    print(f"  {how}", flush=True)
    if plan.overrides:
        terminal.tell(f"  overridden by {plan.overridden}", indent=4)
    if plan.teacher:
        terminal.tell(f"  learns from run {plan.teacher.run_id}", indent=4)
    if plan.findings.train_accuracy_of == TrainDigits.MIXED:
        terminal.tell(f"  train accuracy is of {plan.findings.train_accuracy_of}", indent=4)
    if plan.findings.through_torch:
        terminal.tell(f"  through torch: {', '.join(plan.findings.through_torch)}", indent=4)
    for caution in filter(None, (plan.findings.not_exact, *plan.findings.cautions)):
        terminal.tell(f"  take care: {caution}", indent=4)
    for sentence in unread_forecasts(plan.entry, plan.target.last_epochs):
        terminal.tell(f"  take care: {sentence}", indent=4)
    if plan.run_id:
        terminal.tell(f"  resumes run {plan.run_id}", indent=4)


@command
def _sweep(
    models: Models,
    seeds: Seeds,
    epochs: Epochs | None = None,
    set_: Grid = "",
    engine: Engine = "auto",
    split: Split = "test",
    fold: Fold | None = None,
    device: Device = "auto",
    together: Count | None = None,
    workers: Count | None = None,
    threads: Count = 1,
    scheduler: Scheduler = "",
    rate: Rate | None = None,
    stop: Switch = False,
) -> int:
    """Train what the store lacks of iterations and seeds.

    SEEDS=5 is the seeds 1 to 5, SEEDS=101-110 are those. SET gives fields of the recipes other
    values; of lists of values every product is tried. FOLD=all is a run of each seed on every fold
    of the validation split. SCHEDULER is that of a cluster. TOGETHER seeds are trained as one
    network: by default, on a GPU, as many as its memory has room for. RATE asks whether seeds pass
    so often, as in make check; STOP trains no more of an iteration once that is settled.
    """
    _refuse_rate(rate, stop, whole=not epochs and not set_ and split == "test")
    if together and (workers or scheduler or engine == "compiled"):
        raise ExpectedError(WITHOUT)
    from mnist_exp.runs import sweep, sweep_groups

    asked = sweep.settle_sweep(
        models, seeds, split=split, fold=fold, epochs=epochs, grid=set_, device=device,
        engine="torch" if together else engine, stop_at=rate if stop else None,
    )  # fmt: skip
    if together or (asked.device == "cuda" and not workers and not scheduler):
        train = partial(sweep_groups.train_together, together=together, threads=threads)
    else:
        train = partial(sweep.train_missing, workers=workers, threads=threads, scheduler=scheduler)
    print(f"A {asked.name}: {len(asked.points)} runs, {len(asked.held)} in the store")
    _print_sweep(asked, _train_missing(asked, train), rate)
    return 0


def _refuse_rate(rate: float | None, stop: bool, *, whole: bool) -> None:
    """Raise ExpectedError where nothing says how often seeds pass, as of what is not the whole
    recipe on the test split."""
    if stop and rate is None:
        raise ExpectedError("STOP=1 stops by the rate at which seeds pass, as in RATE=0.9 STOP=1")
    if rate is not None and not whole:
        raise ExpectedError(
            "RATE= is about what counts, whole recipes on the test split: without EPOCHS=, SET= "
            "and SPLIT=validation"
        )


def _print_sweep(asked: Sweep, results: Sequence[JobResult], rate: float | None) -> None:
    """What came of a sweep: of all runs that it asked for. Raises ExpectedError where some
    failed."""
    from mnist_exp.commands.display import print_cautions, print_tried, print_verdicts
    from mnist_exp.commands.passing import print_rates
    from mnist_exp.evidence import comparison
    from mnist_exp.runs import sweep

    trained = [result.run_id for result in results if not result.failure]
    runs = [*asked.held.values(), *trained]
    print_cautions(sweep.cautions(runs))
    if asked.grid:
        print_tried(asked.tried(results), asked.split)
    elif runs:
        verdicts = comparison.of_runs(runs, asked.fold)
        print_verdicts(verdicts)
        if rate is not None:
            print_rates(asked, verdicts, rate)
    if failed := len(results) - len(trained):
        raise ExpectedError(
            f"{failed} of {len(asked.points)} runs failed; the same command tries again"
        )


def _train_missing(asked: Sweep, train: Callable[..., list[JobResult]]) -> Sequence[JobResult]:
    """Train what a sweep lacks, and show how it goes."""
    from mnist_exp.commands.display import SweepDisplay
    from mnist_exp.evidence import comparison
    from mnist_exp.evidence.forecasts import unread_forecasts
    from mnist_exp.notebook import loading

    if not asked.missing:
        settled = all(asked.settled(model) for model in asked.models)
        print(f"Nothing is {'left to settle' if settled else 'missing'}, so nothing was trained.")
        return []
    for number, entry in asked.entries.items():
        for sentence in unread_forecasts(entry, loading.load_target().last_epochs):
            print(f"take care: model {number}: {sentence}")
    held = comparison.of_runs(asked.held.values(), asked.fold) if asked.held else ()
    with SweepDisplay(asked, held) as display:
        return train(
            asked, on_start=display.start, on_result=display.result, on_report=display.report
        )


@command
def _new(model: NewModel, from_: Source) -> int:
    """Start an iteration from a copy of another, or of a candidate.

    FROM is the number of the iteration, or 7 or more digits of the candidate's hash.
    """
    from mnist_exp.notebook.new import create

    file = create(model, from_)
    origin = f"model {from_}" if isinstance(from_, int) else f"candidate {from_}"
    print(f"{file} is a copy of {origin}: change one thing, and say what in its docstring")
    return 0


@command
def _adopt(
    file: PythonFile,
    class_: ClassName | None = None,
    like: Like = 6,
    name: Name | None = None,
    model: NewModel | None = None,
) -> int:
    """Make an iteration of a Python file with a network, and of the recipe of another iteration.

    CLASS is the network, where the file has several. NAME is what the iteration is called, by
    default as the file. MODEL is its number, by default the next.
    """
    from mnist_exp.runs.adoption import adopt_file

    made = adopt_file(file, like=like, network=class_, name=name, number=model)
    origin = f"{made.network} of {printable(file.name)}"
    print(f"{made.entry.file} is {origin}, with the recipe of model {like}")
    print(f"  Model {made.entry.number}: {made.entry.title}, {made.parameters:,} parameters")
    if made.caution:
        print(f"  take care: {made.caution}")
    print(f"Train it: make run MODEL={made.entry.number}")
    return 0
