"""The command line: what each command calls, prints and exits with.

Exit codes: 0 done, or the target is met; 1 the target is not met; 2 the request cannot be carried
out, with one line on stderr that says why; 130 interrupted. Modules that load torch or MLflow are
imported by the commands that need them, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mnist_exp import ExpectedError, collect_rarely
from mnist_exp.commands.arguments import parse
from mnist_exp.common import interrupts
from mnist_exp.common.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from mnist_exp.evidence.comparison import Comparison
    from mnist_exp.evidence.verdict import RunVerdict
    from mnist_exp.runs.plan import Plan


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    collect_rarely()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mnist_exp").setLevel(logging.INFO)
    options = parse(arguments)
    interrupts.listen()
    try:
        return COMMANDS[options.command](options)
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


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", [])])


def _run(options: argparse.Namespace) -> int:
    from mnist_exp import tracking

    tracking.check_answers()  # before torch takes its seconds
    from mnist_exp.runs import resume
    from mnist_exp.runs.plan import settle

    plan = settle(
        options.model, seed=options.seed, epochs=options.epochs, device=options.device,
        split=options.split,
    )  # fmt: skip
    if options.resume:
        begun = resume.unfinished(plan)
        if begun is None:
            raise ExpectedError(
                f"there is no unfinished run of model {options.model} to resume with this code, "
                "seed, split, number of epochs, versions and threads: leave RESUME out"
            )
        plan = begun
    return _carry_out(plan)


def _resume(options: argparse.Namespace) -> int:
    from mnist_exp.runs import resume

    return _carry_out(resume.resume(options.run))


def _reproduce(options: argparse.Namespace) -> int:
    from mnist_exp.common.words import percent
    from mnist_exp.runs import reproduce

    plan = reproduce.plan(options.run)
    epochs = counted(len(plan.history), "epoch")
    print(f"{plan.name} (run {plan.run_id}) is trained again: {epochs}")
    for name, was, now in plan.differences:
        print(f"  {name} was {was}, and is {now} here")
    pairs = []
    for pair in reproduce.carry_out(plan):
        pairs.append(pair)
        same = "the same" if pair.identical else f"recorded {percent(pair.recorded_accuracy)}"
        print(f"epoch {pair.epoch:2}  {plan.split} {percent(pair.accuracy)}, {same}", flush=True)
    outcome = reproduce.judge(pairs)
    print(outcome)
    return 0 if outcome.reproduced else 1


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
    if plan.overrides != "none":
        number = plan.iteration.number
        print(f"Overridden ({plan.overrides}), so it does not count for model {number}.")
    print(f"See it: {'' if tracking.is_served() else 'make ui, then '}{outcome.address}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from mnist_exp.evidence import comparison

    if options.baseline is not None:
        return _check_baseline(options)
    found = comparison.compare([options.model] if options.model else ())
    if found.verdicts.empty:
        raise ExpectedError(_uncounted(found))
    verdicts = comparison.verdicts(found, options.seeds)
    if options.json:
        print(json.dumps(verdicts, indent=2))
    else:
        for verdict in verdicts:
            if verdict["met"] is None:
                print(f"Model {verdict['model']}: {verdict['verdict']}")
            else:
                count = f"{verdict['passing']} of {verdict['seeds']}"
                print(
                    f"Model {verdict['model']}, {verdict['title']}: {verdict['verdict']}, {count}"
                )
            print(f"  {verdict['reason']}")
    met = [verdict["met"] for verdict in verdicts]
    return 1 if False in met else 2 if None in met else 0


def _check_baseline(options: argparse.Namespace) -> int:
    from mnist_exp.evidence import comparison, effect

    if options.model is None or options.model == options.baseline:
        raise ExpectedError("BASELINE= compares MODEL= with another, as in MODEL=8 BASELINE=6")
    found = comparison.compare([options.model, options.baseline])
    for number in (options.model, options.baseline):
        if number in found.uncounted:
            raise ExpectedError(_uncounted(found, number))
    difference = effect.effect(found.counting, options.model, options.baseline)
    needed = max(effect.FEWEST_PAIRS, options.seeds or 0)
    if len(difference.seeds) < needed:
        raise ExpectedError(
            f"models {options.model} and {options.baseline} have {len(difference.seeds)} seeds in "
            f"common, and {needed} are needed: make run MODEL={options.model} SEED=..."
        )
    if options.json:
        print(json.dumps(dataclasses.asdict(difference) | {"worse": difference.worse}, indent=2))
    else:
        judged = "is not shown to be worse than"
        if difference.worse or difference.better:
            judged = "is worse than" if difference.worse else "is better than"
        print(f"Model {options.model} {judged} model {options.baseline}:")
        print(f"  final test accuracy {difference}")
    return 1 if difference.worse else 0


def _sweep(options: argparse.Namespace) -> int:
    from mnist_exp.commands.display import SweepDisplay
    from mnist_exp.evidence import comparison
    from mnist_exp.runs import sweep

    plan = sweep.plan(options.models, options.seeds, split=options.split, epochs=options.epochs)
    count = len(plan.held) + len(plan.missing)
    print(f"A {plan.name}: {count} runs, {len(plan.held)} in the store")
    runs = list(plan.held.values())
    failed = []
    if plan.missing:
        with SweepDisplay(plan) as display:
            results = sweep.carry_out(
                plan, workers=options.workers, threads=options.threads,
                scheduler=options.scheduler, on_start=display.start, on_result=display.result,
            )  # fmt: skip
        failed = [result for result in results if result.failure]
        runs += [result.run_id for result in results if not result.failure]
    else:
        print("Nothing is missing, so nothing was trained.")
    if runs:
        _print_verdicts(comparison.of_runs(runs, plan.split), plan.split)
    if failed:
        raise ExpectedError(f"{len(failed)} of {count} runs failed; the same command tries again")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from mnist_exp.evidence import comparison

    found = comparison.compare(options.models)
    if found.verdicts.empty:
        raise ExpectedError(_uncounted(found))
    _print_verdicts(found.verdicts)
    for number, why in found.uncounted.items():
        print(f"Model {number}: {why}")
    return 0


def _print_verdicts(verdicts: pd.DataFrame, split: str = "test") -> None:
    from mnist_exp.notebook import loading
    from mnist_exp.showing import tables

    table = tables.shown(verdicts, loading.load_target(), split)
    for words in table.columns.intersection(["idea", "verdict"]):
        table[words] = table[words].str.ljust(table[words].str.len().max())
    print(table.to_string(index=False))
    if split == "test":
        print()
        for row in verdicts.itertuples():
            print(f"Model {row.model}: {row.verdict}; {row.reason}")


def _report(options: argparse.Namespace) -> int:
    from mnist_exp import ROOT, report
    from mnist_exp.evidence import comparison
    from mnist_exp.tracking import ui

    found = comparison.compare(options.models)
    page = report.write(found, ROOT / "reports")
    ui.prepare(found.target.last_epochs, page)
    print(f"Written: {page.relative_to(ROOT)}; open it in a browser")
    return 0


def _results(_: argparse.Namespace) -> int:
    from mnist_exp import ROOT, results
    from mnist_exp.evidence import comparison

    found = comparison.compare()
    page = results.write(found)
    results.write_summary(found)
    print(f"Written: {page.relative_to(ROOT)}, results/ beside it, and the table in README.md")
    return 0


def _import(_: argparse.Namespace) -> int:
    from mnist_exp import results

    done = results.enter()
    print(f"Imported {done.entered} runs; {done.present} were there already")
    return 0


def _uncounted(found: Comparison, number: int | None = None) -> str:
    """Why nothing can be judged, and what to do about it."""
    if number is None:
        run = set(found.uncounted) - set(found.unrun)
        if not run:
            return "the store holds only candidates that are not in the notebook: make run MODEL=6"
        number = min(run)
    todo = f": make run MODEL={number}" if number in found.iterations else ""
    return f"model {number}: {found.uncounted[number]}{todo}"


def _ui(options: argparse.Namespace) -> int:
    from mnist_exp import tracking
    from mnist_exp.notebook import loading
    from mnist_exp.tracking import server, ui

    last_epochs = loading.load_target().last_epochs
    if not tracking.is_served():
        server.check_port(options.port)
    print(f"The runs: {ui.address(options.port)}{ui.prepare(last_epochs)}", flush=True)
    return 0 if tracking.is_served() else server.serve(options.port)


def _server(options: argparse.Namespace) -> int:
    from mnist_exp import ROOT
    from mnist_exp.tracking import server

    server.check_server(options.backend, options.artifacts, options.host)
    server.check_port(options.port, options.host)
    artifacts = options.artifacts or str(ROOT / "mlruns" / "served")
    print(f"Serving at http://{options.host}:{options.port}, artifacts in {artifacts}")
    if options.host != server.LOOPBACK:
        print(
            "Log in as admin, with what MLFLOW_AUTH_ADMIN_PASSWORD was when the database was first "
            "served. HTTP\nsends passwords as they are: use a network that you trust. More users: "
            "https://mlflow.org/docs/latest/self-hosting/security/basic-http-auth/"
        )
    print("Clients: export MLFLOW_TRACKING_URI=<this address>", flush=True)
    return server.serve(options.port, artifacts=artifacts, host=options.host)


def _backup(options: argparse.Namespace) -> int:
    from pathlib import Path

    from mnist_exp import ROOT, tracking

    name = time.strftime("%Y%m%d-%H%M%S.tar.gz")
    file = Path(options.file) if options.file else ROOT / "backups" / name
    tracking.back_up(file)
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    print(f"Written: {shown}; make restore BACKUP={shown} puts it back")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from pathlib import Path

    from mnist_exp import tracking

    kept = tracking.restore(Path(options.file))
    print(f"Restored; what was there before is in {kept}" if kept else "Restored")
    return 0


def _new(options: argparse.Namespace) -> int:
    from mnist_exp.notebook import entries

    file = entries.create(options.model, options.source)
    print(
        f"{file} is a copy of model {options.source}: "
        "change one thing, and say what in its docstring"
    )
    return 0


def _print_plan(plan: Plan) -> None:
    print(f"Model {plan.iteration.number}: {plan.iteration.title}")
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


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "resume": _resume,
    "reproduce": _reproduce,
    "check": _check,
    "sweep": _sweep,
    "compare": _compare,
    "report": _report,
    "results": _results,
    "import": _import,
    "ui": _ui,
    "server": _server,
    "backup": _backup,
    "restore": _restore,
    "new": _new,
}
