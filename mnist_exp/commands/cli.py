"""The command line: what each command calls, prints and exits with.

Exit codes: 0 done, or the target is met; 1 the target is not met; 2 the request cannot be carried
out, with one line on stderr that says why; 130 interrupted. Modules that load torch or MLflow are
imported by the commands that need them, so that `--help` is quick.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from mnist_exp.commands import arguments
from mnist_exp.commands.arguments import (
    Command,
    IterationOrHash,
    On,
    SeedRanges,
    Text,
    WholeNumber,
    WholeNumbers,
)
from mnist_exp.common import interrupts, startup
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import counted

if TYPE_CHECKING:
    from mnist_exp.evidence.comparison import Comparison
    from mnist_exp.evidence.verdict import RunVerdict, Verdict
    from mnist_exp.runs.plan import Plan

# What can be set: the type of a value, and how its text is read, with an example of one.
Model = Annotated[int, WholeNumber(1, 9999, "5")]
Baseline = Annotated[int, WholeNumber(1, 9999, "4")]
NewModel = Annotated[int, WholeNumber(1, 9999, "30")]
Source = Annotated[int | str, IterationOrHash("12")]
Models = Annotated[list[int], WholeNumbers(WholeNumber(1, 9999, '"3 6"'))]
Seed = Annotated[int, WholeNumber(0, 2**32 - 1, "3")]
Seeds = Annotated[list[int], SeedRanges("5")]
SeedCount = Annotated[int, WholeNumber(1, 10_000, "5")]
Epochs = Annotated[int, WholeNumber(1, 10_000, "2")]
Device = Annotated[str, Text("cuda")]
Split = Annotated[Literal["test", "validation"], Text("validation")]  # data refuses other words
RunId = Annotated[str, Text("<id of the run, as the UI shows it>")]
Count = Annotated[int, WholeNumber(1, 1024, "2")]
Scheduler = Annotated[str, Text("tcp://host:8786")]
Database = Annotated[str, Text("postgresql://user:password@host/mlflow")]
Artifacts = Annotated[str, Text("s3://bucket/path")]
Host = Annotated[str, Text("192.0.2.1")]
Port = Annotated[int, WholeNumber(1, 65535, "5001")]
Backup = Annotated[str, Text("backups/now.tar.gz")]
Switch = Annotated[bool, On()]

HELP = {"-h", "--help"}
COMMANDS: dict[str, Command] = {}
"""By name, in the order in which they are listed."""


def command(function: Command) -> Command:
    """Make `_run(model: Model, seed: Seed = 1)` the command `run MODEL=5 SEED=3`."""
    COMMANDS[function.__name__.strip("_")] = function
    return function


def main(words: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    startup.of_command()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mnist_exp").setLevel(logging.INFO)
    words = sys.argv[1:] if words is None else words
    interrupts.listen()
    try:
        return _obey(words)
    except ExpectedError as error:
        print(_with_notes(f"mnist-exp: {error}", error), file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `mnist-exp compare | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except KeyboardInterrupt as interrupt:
        interrupts.heard()
        print(_with_notes("mnist-exp: interrupted", interrupt), file=sys.stderr)
        return 130


def _obey(words: list[str]) -> int:
    name, *settings = words or [""]
    asked = COMMANDS.get(name)
    if HELP & set(words):
        print(_help(name, asked) if asked else listing("mnist-exp"))
        return 0
    if asked is None:
        raise ExpectedError(f"a command is needed, not {name[:40]!r}: {', '.join(COMMANDS)}")
    return asked(**arguments.bind(name, asked, settings))


def _help(name: str, asked: Command) -> str:
    return f"mnist-exp {name} {arguments.usage(asked)}\n\n{inspect.getdoc(asked)}"


def listing(program: str) -> str:
    """A line for each command: what it takes and does."""
    lines = []
    for name, listed in COMMANDS.items():
        summary = str(inspect.getdoc(listed)).partition("\n")[0].rstrip(".")
        does = summary[0].lower() + summary[1:]
        takes = arguments.usage(listed)
        lines.append(f"{program} {name:12} {takes}{': ' if takes else ''}{does}")
    return "\n".join(lines)


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", [])])


@command
def _run(
    model: Model,
    seed: Seed = 1,
    epochs: Epochs | None = None,
    device: Device = "auto",
    split: Split = "test",
    resume: Switch = False,
) -> int:
    """Train an iteration and record it.

    DEVICE is auto, cpu, cuda or mps; SPLIT is test or validation. RESUME goes on with the newest
    unfinished run of these settings.
    """
    from mnist_exp import tracking

    tracking.check_answers()  # before torch takes its seconds
    from mnist_exp.runs import resume as resuming
    from mnist_exp.runs.plan import settle

    plan = settle(model, seed=seed, epochs=epochs, device=device, split=split)
    if resume:
        unfinished = resuming.unfinished(plan)
        if unfinished is None:
            raise ExpectedError(
                f"there is no unfinished run of model {model} to resume with this code, seed, "
                "split, number of epochs, versions and threads: leave RESUME out"
            )
        plan = unfinished
    return _carry_out(plan)


@command
def _resume(run_: RunId) -> int:
    """Go on with a run that ended early."""
    from mnist_exp.runs import resume

    return _carry_out(resume.resume(run_))


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
    for name, was, now in reproduction.differences:
        print(f"  {name} was {was}, and is {now} here")
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


def _carry_out(plan: Plan) -> int:
    from mnist_exp import tracking
    from mnist_exp.commands.display import ProgressDisplay
    from mnist_exp.runs import run

    _print_plan(plan)
    with ProgressDisplay(plan.recipe.epochs, plan.split) as display:
        outcome = run.carry_out(plan, on_batch=display.batch, on_epoch=display.epoch)
    if outcome.verdict:
        _print_verdict(outcome.verdict)
    else:
        print("Not judged: the target is about the test split.")
    if plan.overrides:
        number = plan.entry.number
        print(f"Overridden ({plan.overridden}), so it does not count for model {number}.")
    print(f"See it: {'' if tracking.is_served() else 'make ui, then '}{outcome.address}")
    return 0


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
def _sweep(
    models: Models,
    seeds: Seeds,
    epochs: Epochs | None = None,
    split: Split = "test",
    workers: Count | None = None,
    threads: Count = 1,
    scheduler: Scheduler = "",
) -> int:
    """Train what the store lacks of iterations and seeds.

    SEEDS=5 is the seeds 1 to 5, SEEDS=101-110 are those. SCHEDULER is that of a cluster.
    """
    from mnist_exp.commands.display import SweepDisplay
    from mnist_exp.evidence import comparison
    from mnist_exp.runs import sweep

    asked = sweep.settle_sweep(models, seeds, split=split, epochs=epochs)
    count = len(asked.held) + len(asked.missing)
    print(f"A {asked.name}: {count} runs, {len(asked.held)} in the store")
    runs = list(asked.held.values())
    failed = []
    if asked.missing:
        with SweepDisplay(asked) as display:
            results = sweep.train_missing(
                asked, workers=workers, threads=threads, scheduler=scheduler,
                on_start=display.start, on_result=display.result,
            )  # fmt: skip
        failed = [result for result in results if result.failure]
        runs += [result.run_id for result in results if not result.failure]
    else:
        print("Nothing is missing, so nothing was trained.")
    if runs:
        _print_verdicts(comparison.of_runs(runs))
    if failed:
        raise ExpectedError(f"{len(failed)} of {count} runs failed; the same command tries again")
    return 0


@command
def _compare(models: Models | None = None) -> int:
    """Print a table of the iterations in the store."""
    from mnist_exp.evidence import comparison

    compared = comparison.compare(models or ())
    if not compared.verdicts:
        raise ExpectedError(_uncounted(compared))
    _print_verdicts(compared.verdicts)
    for number, why in compared.uncounted.items():
        print(f"Model {number}: {why}")
    return 0


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    from mnist_exp.notebook import loading
    from mnist_exp.showing import tables

    table = tables.shown_verdicts(verdicts, loading.load_target())
    for words in table.columns.intersection(["idea", "verdict"]):
        table[words] = table[words].str.ljust(table[words].str.len().max())
    print(table.to_string(index=False))
    judged = [verdict for verdict in verdicts if verdict.split == "test"]
    if judged:
        print()
    for verdict in judged:
        print(f"Model {verdict.model}: {verdict.answer}; {verdict.reason}")


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


@command
def _import() -> int:
    """Enter the published runs of experiments/results/ into the store."""
    from mnist_exp.reporting.enter import enter_runs

    imported = enter_runs()
    print(f"Imported {imported.entered} runs; {imported.present} were there already")
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


@command
def _ui(port: Port = 5000) -> int:
    """Browse the recorded runs."""
    from mnist_exp import tracking
    from mnist_exp.notebook import loading
    from mnist_exp.tracking import server, ui

    last_epochs = loading.load_target().last_epochs
    if not tracking.is_served():
        server.check_port(port)
    print(f"The runs: {ui.address(port)}{ui.prepare_ui(last_epochs)}", flush=True)
    return 0 if tracking.is_served() else server.serve(port)


@command
def _server(
    backend: Database, artifacts: Artifacts = "", host: Host = "127.0.0.1", port: Port = 5000
) -> int:
    """Keep a store for several machines.

    Set BACKEND in the environment, where nobody else sees its password. ARTIFACTS is a folder or a
    bucket.
    """
    from mnist_exp import ROOT
    from mnist_exp.tracking import server

    server.check_server(backend, artifacts, host)
    server.check_port(port, host)
    artifacts = artifacts or str(ROOT / "mlruns" / "served")
    print(server.announcement(port, artifacts, host), flush=True)
    return server.serve(port, artifacts=artifacts, host=host)


@command
def _backup(backup: Backup = "") -> int:
    """Write the whole local store to one file.

    By default backups/<date and time>.tar.gz.
    """
    from pathlib import Path

    from mnist_exp import ROOT, tracking

    name = time.strftime("%Y%m%d-%H%M%S.tar.gz")
    file = Path(backup) if backup else ROOT / "backups" / name
    tracking.back_up(file)
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    print(f"Written: {shown}; make restore BACKUP={shown} puts it back")
    return 0


@command
def _restore(backup: Backup) -> int:
    """Put a backup in the place of the local store, which is kept."""
    from pathlib import Path

    from mnist_exp import tracking

    former = tracking.restore(Path(backup))
    print(f"Restored; what was there before is in {former}" if former else "Restored")
    return 0


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


def _print_plan(plan: Plan) -> None:
    print(f"Model {plan.entry.number}: {plan.entry.title}")
    print(f"  {plan.parameters:,} parameters, receptive field {plan.receptive_field}")
    epochs = f"{plan.recipe.epochs} epoch{'s' if plan.recipe.epochs > 1 else ''}"
    how = f"seed {plan.seed}, device {plan.device.type}, {epochs}, {plan.split} split"
    print(f"  {how}", flush=True)
    if plan.run_id:
        print(f"  resumes run {plan.run_id}", flush=True)


def _print_verdict(judged: RunVerdict) -> None:
    print(f"{str(judged).capitalize()}:")
    for condition in judged.conditions:
        print(f"  {'yes' if condition.met else 'NO ':3}  {condition.name}: {condition.measured}")
