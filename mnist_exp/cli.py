"""The command line: arguments, printing and exit codes.

Exit codes: 0 done, or the target is met; 1 the target is not met; 2 the request cannot be carried
out, with one line on stderr that says why; 130 interrupted. Modules that load torch or MLflow are
imported by the commands that need them, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from mnist_exp import ExpectedError, printable

if TYPE_CHECKING:
    import pandas as pd

    from mnist_exp import sweep
    from mnist_exp.comparison import Comparison
    from mnist_exp.run import Plan
    from mnist_exp.training import EpochResult, Progress
    from mnist_exp.verdict import Verdict


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mnist_exp").setLevel(logging.INFO)
    parser = _parser()
    options = parser.parse_args(arguments)
    if [] in vars(options).values():  # what older Pythons make of --host=--
        parser.error("-- is no value")
    for ending in (signal.SIGTERM, signal.SIGHUP):  # a run ends as KILLED, a server stops
        signal.signal(ending, signal.default_int_handler)
    try:
        return int(options.command(options))
    except ExpectedError as error:
        print(_with_notes(f"mnist-exp: {error}", error), file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `mnist-exp compare | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except KeyboardInterrupt as interrupt:
        print(_with_notes("mnist-exp: interrupted", interrupt), file=sys.stderr)
        return 130


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", [])])


def _run(options: argparse.Namespace) -> int:
    from mnist_exp import tracking

    tracking.check_answers()  # before torch takes its seconds
    from mnist_exp import run

    plan = run.plan(
        options.model, seed=options.seed, epochs=options.epochs, device=options.device,
        split=options.split,
    )  # fmt: skip
    if options.resume:
        begun = run.unfinished(plan)
        if begun is None:
            raise ExpectedError(
                f"there is no unfinished run of model {options.model} to resume with this code, "
                "seed, split, number of epochs, versions and threads: leave RESUME out"
            )
        plan = begun
    return _carry_out(plan)


def _resume(options: argparse.Namespace) -> int:
    from mnist_exp import run

    return _carry_out(run.resume(options.run))


def _reproduce(options: argparse.Namespace) -> int:
    from mnist_exp import reproduce
    from mnist_exp.verdict import percent

    plan = reproduce.plan(options.run)
    print(f"{plan.name} (run {plan.run_id}) is trained again: {len(plan.history)} epochs")
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
    from mnist_exp import run, tracking

    _print_plan(plan)
    with _ProgressDisplay(plan.recipe.epochs, plan.split) as display:
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
    from mnist_exp import comparison

    if options.baseline is not None:
        return _check_baseline(options)
    found = comparison.read([options.model] if options.model else ())
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
    from mnist_exp import comparison, verdict

    if options.model is None or options.model == options.baseline:
        raise ExpectedError("BASELINE= compares MODEL= with another, as in MODEL=8 BASELINE=6")
    found = comparison.read([options.model, options.baseline])
    for number in (options.model, options.baseline):
        if number in found.uncounted:
            raise ExpectedError(_uncounted(found, number))
    effect = verdict.effect(found.counting, options.model, options.baseline)
    needed = max(verdict.FEWEST_PAIRS, options.seeds or 0)
    if len(effect.seeds) < needed:
        raise ExpectedError(
            f"models {options.model} and {options.baseline} have {len(effect.seeds)} seeds in "
            f"common, and {needed} are needed: make run MODEL={options.model} SEED=..."
        )
    if options.json:
        print(json.dumps(dataclasses.asdict(effect) | {"worse": effect.worse}, indent=2))
    else:
        judged = "is not shown to be worse than"
        if effect.worse or effect.better:
            judged = "is worse than" if effect.worse else "is better than"
        print(f"Model {options.model} {judged} model {options.baseline}:")
        print(f"  final test accuracy {effect}")
    return 1 if effect.worse else 0


def _sweep(options: argparse.Namespace) -> int:
    from mnist_exp import comparison, sweep

    plan = sweep.plan(options.models, options.seeds, split=options.split, epochs=options.epochs)
    count = len(plan.held) + len(plan.missing)
    print(f"A {plan.name}: {count} runs, {len(plan.held)} in the store")
    runs = list(plan.held.values())
    failed = []
    if plan.missing:
        with _SweepDisplay(plan) as display:
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
    from mnist_exp import comparison

    found = comparison.read(options.models)
    if found.verdicts.empty:
        raise ExpectedError(_uncounted(found))
    _print_verdicts(found.verdicts)
    for number, why in found.uncounted.items():
        print(f"Model {number}: {why}")
    return 0


def _print_verdicts(verdicts: pd.DataFrame, split: str = "test") -> None:
    from mnist_exp import comparison, recipe

    table = comparison.shown(verdicts, recipe.load_target(), split)
    for words in table.columns.intersection(["idea", "verdict"]):
        table[words] = table[words].str.ljust(table[words].str.len().max())
    print(table.to_string(index=False))
    if split == "test":
        print()
        for row in verdicts.itertuples():
            print(f"Model {row.model}: {row.verdict}; {row.reason}")


def _report(options: argparse.Namespace) -> int:
    from mnist_exp import ROOT, comparison, report, ui

    page = report.write(comparison.read(options.models), ROOT / "reports")
    ui.prepare(page)
    print(f"Written: {page.relative_to(ROOT)}; open it in a browser")
    return 0


def _results(_: argparse.Namespace) -> int:
    from mnist_exp import ROOT, comparison, results

    page = results.write(comparison.read())
    print(f"Written: {page.relative_to(ROOT)}, and results/ beside it")
    return 0


def _import(_: argparse.Namespace) -> int:
    from mnist_exp import results

    done = results.enter()
    print(f"Imported {done.entered} runs; {done.present} were there already")
    return 0


def _uncounted(found: Comparison, number: int | None = None) -> str:
    """Why nothing can be judged, and what to do about it."""
    number = min(set(found.uncounted) - set(found.unrun)) if number is None else number
    todo = f": make run MODEL={number}" if number in found.iterations else ""
    return f"model {number}: {found.uncounted[number]}{todo}"


def _ui(options: argparse.Namespace) -> int:
    from mnist_exp import tracking, ui

    if not tracking.is_served():
        ui.check_port(options.port)
    print(f"The runs: {ui.address(options.port)}{ui.prepare()}", flush=True)
    return 0 if tracking.is_served() else ui.serve(options.port)


def _server(options: argparse.Namespace) -> int:
    from mnist_exp import ROOT, ui

    ui.check_server(options.backend, options.artifacts, options.host)
    ui.check_port(options.port, options.host)
    artifacts = options.artifacts or str(ROOT / "mlruns" / "served")
    print(f"Serving at http://{options.host}:{options.port}, artifacts in {artifacts}")
    if options.host != ui.LOOPBACK:
        print(
            "Log in as admin, with what MLFLOW_AUTH_ADMIN_PASSWORD was when the database was first "
            "served. HTTP\nsends passwords as they are: use a network that you trust. More users: "
            "https://mlflow.org/docs/latest/self-hosting/security/basic-http-auth/"
        )
    print("Clients: export MLFLOW_TRACKING_URI=<this address>", flush=True)
    return ui.serve(options.port, artifacts=artifacts, host=options.host)


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
    from mnist_exp import recipe

    file = recipe.create(options.model, options.source)
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


def _print_verdict(judged: Verdict) -> None:
    print(f"{str(judged).capitalize()}:")
    for condition in judged.conditions:
        print(f"  {'yes' if condition.met else 'NO ':3}  {condition.name}: {condition.measured}")


class _ProgressDisplay:
    """A bar over the whole run on a terminal, a plain line per epoch everywhere."""

    def __init__(self, epochs: int, split: str) -> None:
        from tqdm import tqdm

        self.epochs, self.split = epochs, split
        form = "{desc} {bar} {percentage:3.0f} %{postfix}, {remaining} left"
        self.bar = tqdm(disable=not sys.stderr.isatty(), leave=False, bar_format=form, miniters=1)

    def __enter__(self) -> _ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def batch(self, progress: Progress) -> None:
        if self.bar.disable:
            return
        from mnist_exp.verdict import percent

        self.bar.total = self.epochs * progress.batches
        train = progress.train
        self.bar.set_description_str(f"epoch {progress.epoch}/{self.epochs}", refresh=False)
        postfix = f"loss {train.loss:.4f}, train {percent(train.accuracy)}"
        self.bar.set_postfix_str(postfix, refresh=False)
        self.bar.update()

    def epoch(self, result: EpochResult) -> None:
        from mnist_exp.verdict import percent

        self.bar.write(
            f"epoch {result.epoch:2}/{self.epochs}  loss {result.train.loss:.4f}  "
            f"train {percent(result.train.accuracy)}  "
            f"{self.split} {percent(result.evaluation.accuracy)}  {result.seconds:.1f} s",
            file=sys.stdout,
        )
        sys.stdout.flush()


class _SweepDisplay:
    """A bar over the sweep on a terminal, and a line per training that ends, everywhere."""

    def __init__(self, plan: sweep.Plan) -> None:
        from tqdm import tqdm

        self.plan, self.at_once = plan, 1
        self.seconds: list[float] = []
        self.bar = tqdm(
            total=len(plan.missing), disable=not sys.stderr.isatty(), leave=False,
            bar_format="{desc}{bar} {n}/{total}",
        )  # fmt: skip

    def __enter__(self) -> _SweepDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, at_once: int) -> None:
        self.at_once = at_once
        self._write(f"{len(self.plan.missing)} to train, {at_once} at once")

    def result(self, result: sweep.Result) -> None:
        from mnist_exp.verdict import percent

        self.seconds.append(result.seconds)
        left = len(self.plan.missing) - len(self.seconds)
        expected = sum(self.seconds) / len(self.seconds) * math.ceil(left / self.at_once)
        ended = result.failure or f"{self.plan.split} {percent(result.accuracy)}, {result.verdict}"
        line = f"{result.job.name}: {ended} ({_duration(result.seconds)})"
        self.bar.update()
        self._write(f"{line}; {left} left, about {_duration(expected)}" if left else line)

    def _write(self, line: str) -> None:
        self.bar.write(line, file=sys.stdout)
        sys.stdout.flush()


def _duration(seconds: float) -> str:
    return f"{round(seconds)} s" if seconds < 90 else f"{round(seconds / 60)} min"


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument \S+: ", "", " ".join(message.split()))
        self.exit(2, f"mnist-exp: {printable(message)}\n")


def _whole_number(name: str, least: int, most: int, example: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= 10
        if not (digits and least <= int(text) <= most):
            shown = text if len(text) <= 40 and text.isprintable() else ascii(text)[:40]
            raise argparse.ArgumentTypeError(
                f"{name}={shown}: a whole number from {least} to {most} is needed, as in {example}"
            )
        return int(text)

    return parse


def _switch(name: str) -> Callable[[str], bool]:
    def parse(text: str) -> bool:
        if text != "1":
            shown = ascii(text)[1:-1][:40]
            raise argparse.ArgumentTypeError(f"{name}={shown}: to switch it on, set 1")
        return True

    return parse


def _models(text: str) -> list[int]:
    number = _whole_number("MODELS", 1, 9999, 'MODELS="3 6"')
    return sorted({number(word) for word in text.split() or [""]})


def _seeds(text: str) -> list[int]:
    """`5` is the seeds 1 to 5; `101-110` and `1 4 9` are those."""
    number = _whole_number("SEEDS", 0, 2**32 - 1, "SEEDS=5 or SEEDS=101-110")
    words = text.split()
    if len(words) == 1 and "-" not in text:
        return list(range(1, _whole_number("SEEDS", 1, 10_000, "SEEDS=5")(words[0]) + 1))
    bounds = [[number(bound) for bound in word.split("-", 1)] for word in words or [""]]
    ranges = [range(own[0], own[-1] + 1) for own in bounds]
    if not all(ranges) or sum(map(len, ranges)) > 10_000:
        raise argparse.ArgumentTypeError(
            f"SEEDS={text[:40]}: a range goes up, as in SEEDS=101-110, and to 10000 seeds at most"
        )
    return sorted({seed for own in ranges for seed in own})


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="mnist-exp",
        description="Train, record and judge iterations of a small MNIST classifier.",
    )
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_OneLineParser)
    model = _whole_number("MODEL", 1, 9999, "MODEL=5")

    run = commands.add_parser("run", help="train an iteration and record it")
    run.add_argument("model", type=model)
    run.add_argument("--seed", type=_whole_number("SEED", 0, 2**32 - 1, "SEED=3"), default=1)
    run.add_argument("--epochs", type=_whole_number("EPOCHS", 1, 10_000, "EPOCHS=2"))
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    run.add_argument("--split", default="test", help="test or validation")
    run.add_argument(
        "--resume", type=_switch("RESUME"), nargs="?", const=True, default=False,
        help="go on with the newest unfinished run of these settings",
    )  # fmt: skip
    run.set_defaults(command=_run)

    resume = commands.add_parser("resume", help="go on with a run that ended early")
    resume.add_argument("run", metavar="RUN", help="its id, as the UI shows it")
    resume.set_defaults(command=_resume)

    seeds = _whole_number("SEEDS", 1, 10_000, "SEEDS=5")
    reproduce = commands.add_parser(
        "reproduce", help="train a recorded run again: exit 0 for the same numbers, 1 for others"
    )
    reproduce.add_argument("run", metavar="RUN", help="its id, as the UI shows it")
    reproduce.set_defaults(command=_reproduce)

    check = commands.add_parser(
        "check", help="exit 0: the target is met on every seed, 1: not, 2: nothing to judge"
    )
    check.add_argument("model", type=model, nargs="?", help="all in the store, if left out")
    check.add_argument("--seeds", type=seeds, help="demand that many seeds, all passing")
    baseline = _whole_number("BASELINE", 1, 9999, "BASELINE=6")
    check.add_argument(
        "--baseline", type=baseline, metavar="MODEL",
        help="exit 1 when the model is worse than this one, paired by seed",
    )  # fmt: skip
    check.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    check.set_defaults(command=_check)

    sweep = commands.add_parser("sweep", help="train what the store lacks of iterations and seeds")
    sweep.add_argument("--models", type=_models, required=True, help='such as "2 3"')
    sweep.add_argument("--seeds", type=_seeds, required=True, help="5 (1 to 5), or 101-110")
    sweep.add_argument("--epochs", type=_whole_number("EPOCHS", 1, 10_000, "EPOCHS=2"))
    sweep.add_argument("--split", default="test", help="test or validation")
    sweep.add_argument("--workers", type=_whole_number("WORKERS", 1, 1024, "WORKERS=2"))
    sweep.add_argument("--threads", type=_whole_number("THREADS", 1, 1024, "THREADS=1"), default=1)
    sweep.add_argument("--scheduler", default="", help="address of a cluster, tcp://...")
    sweep.set_defaults(command=_sweep)

    compare = commands.add_parser("compare", help="print a table of the iterations in the store")
    compare.add_argument("--models", type=_models, default=(), help='such as "3 6"')
    compare.set_defaults(command=_compare)

    report = commands.add_parser("report", help="write the comparison as a page to reports/")
    report.add_argument("--models", type=_models, default=(), help='such as "3 6"')
    report.set_defaults(command=_report)

    results = commands.add_parser("results", help="write experiments/RESULTS.md from the store")
    results.set_defaults(command=_results)

    entered = commands.add_parser("import", help="enter the published runs into the store")
    entered.set_defaults(command=_import)

    ui = commands.add_parser("ui", help="serve the store to a browser on this machine")
    ui.add_argument("--port", type=_whole_number("PORT", 1, 65535, "PORT=5001"), default=5000)
    ui.set_defaults(command=_ui)

    server = commands.add_parser("server", help="serve a store to other machines")
    server.add_argument(
        "--backend", default=os.environ.get("BACKEND", ""),  # an argument could be seen by others
        help="postgresql://user:password@host/database; or in the environment, as BACKEND",
    )  # fmt: skip
    server.add_argument("--artifacts", default="", help="a folder, or s3://bucket/path")
    server.add_argument("--host", default="127.0.0.1", help="an address that others reach")
    server.add_argument("--port", type=_whole_number("PORT", 1, 65535, "PORT=5001"), default=5000)
    server.set_defaults(command=_server)

    backup = commands.add_parser("backup", help="write the whole local store to one file")
    backup.add_argument("file", nargs="?", help="by default backups/<date and time>.tar.gz")
    backup.set_defaults(command=_backup)

    restore = commands.add_parser("restore", help="put a backup in the place of the local store")
    restore.add_argument("file")
    restore.set_defaults(command=_restore)

    new = commands.add_parser("new", help="start an iteration from a copy of another")
    new.add_argument("model", type=model)
    origin = _whole_number("FROM", 1, 9999, "FROM=6")
    new.add_argument("--from", dest="source", type=origin, required=True)
    new.set_defaults(command=_new)
    return parser
