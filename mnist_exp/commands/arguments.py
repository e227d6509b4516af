"""The arguments of every command, checked as far as they can be without the store."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from typing import Any, NoReturn

from mnist_exp.common.words import printable


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for; `command` is the name of the command. Exits with 2 and one line on stderr
    for what cannot be understood."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if [] in vars(options).values():  # what older Pythons make of --host=--
        parser.error("-- is no value")
    return options


class _OneLineParser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)  # --epoch is a mistake, as EPOCH= is

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


def _named(name: str, example: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not text.strip():
            raise argparse.ArgumentTypeError(f"{name}= is needed, as in {example}")
        return text

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
    commands = parser.add_subparsers(
        required=True, dest="command", metavar="command", parser_class=_OneLineParser
    )
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

    resume = commands.add_parser("resume", help="go on with a run that ended early")
    run_id = _named("RUN", "RUN=<id of the run, as the UI shows it>")
    resume.add_argument("run", metavar="RUN", type=run_id, help="its id, as the UI shows it")

    seeds = _whole_number("SEEDS", 1, 10_000, "SEEDS=5")
    reproduce = commands.add_parser(
        "reproduce", help="train a recorded run again: exit 0 for the same numbers, 1 for others"
    )
    reproduce.add_argument("run", metavar="RUN", type=run_id, help="its id, as the UI shows it")

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

    sweep = commands.add_parser("sweep", help="train what the store lacks of iterations and seeds")
    sweep.add_argument("--models", type=_models, required=True, help='such as "2 3"')
    sweep.add_argument("--seeds", type=_seeds, required=True, help="5 (1 to 5), or 101-110")
    sweep.add_argument("--epochs", type=_whole_number("EPOCHS", 1, 10_000, "EPOCHS=2"))
    sweep.add_argument("--split", default="test", help="test or validation")
    sweep.add_argument("--workers", type=_whole_number("WORKERS", 1, 1024, "WORKERS=2"))
    sweep.add_argument("--threads", type=_whole_number("THREADS", 1, 1024, "THREADS=1"), default=1)
    sweep.add_argument("--scheduler", default="", help="address of a cluster, tcp://...")

    compare = commands.add_parser("compare", help="print a table of the iterations in the store")
    compare.add_argument("--models", type=_models, default=(), help='such as "3 6"')

    report = commands.add_parser("report", help="write the comparison as a page to reports/")
    report.add_argument("--models", type=_models, default=(), help='such as "3 6"')

    commands.add_parser(
        "results", help="write the record in experiments/ and README.md from the store"
    )

    commands.add_parser("import", help="enter the published runs into the store")

    ui = commands.add_parser("ui", help="serve the store to a browser on this machine")
    ui.add_argument("--port", type=_whole_number("PORT", 1, 65535, "PORT=5001"), default=5000)

    server = commands.add_parser("server", help="serve a store to other machines")
    server.add_argument(
        "--backend", default=os.environ.get("BACKEND", ""),  # an argument could be seen by others
        help="postgresql://user:password@host/database; or in the environment, as BACKEND",
    )  # fmt: skip
    server.add_argument("--artifacts", default="", help="a folder, or s3://bucket/path")
    server.add_argument("--host", default="127.0.0.1", help="an address that others reach")
    server.add_argument("--port", type=_whole_number("PORT", 1, 65535, "PORT=5001"), default=5000)

    backup = commands.add_parser("backup", help="write the whole local store to one file")
    backup.add_argument("file", nargs="?", help="by default backups/<date and time>.tar.gz")

    restore = commands.add_parser("restore", help="put a backup in the place of the local store")
    restore.add_argument("file", type=_named("BACKUP", "BACKUP=backups/now.tar.gz"))

    new = commands.add_parser("new", help="start an iteration from a copy of another")
    new.add_argument("model", type=model)
    origin = _whole_number("FROM", 1, 9999, "FROM=6")
    new.add_argument("--from", dest="source", type=origin, required=True)
    return parser
