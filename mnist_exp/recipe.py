"""What an iteration is: its recipe, the target it is judged by, and how its file is read."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp import ROOT, ExpectedError
from mnist_exp.common.words import printable

if TYPE_CHECKING:  # who reads the notebook need not wait for torch
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from mnist_exp.augment import Augmentation
    from mnist_exp.preprocess import Preprocessing
    from mnist_exp.views import Views

EXPERIMENTS = ROOT / "experiments"
SECTIONS = ("Target", "Change", "Expect", "Analysis")
UNWRITTEN = "Analysis: not written yet: it takes runs on several seeds.\n"
PIXELS = (1, 28, 28)
"""The shape of one MNIST image: channels, height, width."""


@dataclass(frozen=True, kw_only=True)
class ExponentialAverage:
    """Weights and batch-norm statistics averaged over the steps: after each `every` steps the
    average keeps `decay` of itself and takes the rest from the network.

    At first it is the network; after n times it keeps (1 + n) / (10 + n) of itself where that is
    less, as TensorFlow's moving average does: it would be the first weights for epochs otherwise.
    """

    decay: float
    every: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.decay <= 1 and isinstance(self.every, int) and self.every >= 1):
            raise ValueError(f"decay must be in 0..1 and every a whole number from 1: {self}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. Torch's own classes, with their arguments in `functools.partial`.

    `schedule` is stepped once an epoch. `batch_schedule` is stepped once a batch, and is called
    with the number of all steps as `total_steps`, as OneCycleLR takes it. `augment` changes the
    training images, not the evaluated ones; then `preprocess` changes both. `views` are taken of
    each evaluated image, before `preprocess`, and the network's probabilities for them are
    averaged. With `averaging`, the averaged network is the one that is evaluated, judged and kept.
    The train accuracy is that of the network in training, of one view.
    """

    network: Callable[[], nn.Module]
    optimizer: Callable[..., Optimizer]
    batch_size: int
    epochs: int
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    batch_schedule: Callable[..., LRScheduler] | None = None
    augment: Augmentation | None = None
    preprocess: Preprocessing | None = None
    averaging: ExponentialAverage | None = None
    views: Views | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")

    def hyperparameters(self) -> dict[str, object]:
        """Everything the recipe sets, flat, under the names that the tracking store shows.

        The optimizer's `lr` is `learning_rate`; every other argument keeps its name behind that of
        its owner (`optimizer.momentum`, `schedule.step_size`, `augment.degrees`). What the recipe
        leaves out is "none", so that runs with and without it share a column.
        """
        flat: dict[str, object] = {
            "network": _name(self.network),
            "batch_size": self.batch_size,
            "epochs": self.epochs,
        }
        for owner in ("optimizer", "schedule", "batch_schedule"):
            part = getattr(self, owner)
            flat[owner] = _name(part) if part else "none"
            flat |= {f"{owner}.{key}": value for key, value in _arguments(part).items()}
        flat["learning_rate"] = flat.pop("optimizer.lr", "default")
        for owner in ("augment", "preprocess", "averaging", "views"):
            part = getattr(self, owner)
            flat[owner] = type(part).__name__ if part else "none"
            fields = dataclasses.asdict(part) if part else {}
            flat |= {f"{owner}.{key}": value for key, value in fields.items()}
        return flat


def _name(part: object) -> str:
    return str(getattr(part.func if isinstance(part, partial) else part, "__name__", part))


def _arguments(part: object) -> dict[str, object]:
    if not isinstance(part, partial):
        return {}
    bound = inspect.signature(part.func).bind_partial(None, *part.args, **part.keywords)
    # The first is the weights, or the optimizer, that training fills in.
    return dict(list(bound.arguments.items())[1:])


@dataclass(frozen=True, kw_only=True)
class Target:
    """The bar: `test_accuracy` (a fraction) in every one of the `last_epochs`, within `max_epochs`,
    with fewer than `parameters_below` trainable parameters."""

    test_accuracy: float
    last_epochs: int
    max_epochs: int
    parameters_below: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the lab notebook, `experiments/model_<number>.py`, as it reads."""

    number: int
    source: str
    title: str
    sections: dict[str, str]
    folder: Path = EXPERIMENTS

    @property
    def name(self) -> str:
        """The name in the tracking store, as in `model-5`."""
        return f"model-{self.number}"

    @property
    def path(self) -> Path:
        """The file that `source` was read from."""
        return path(self.number, self.folder)

    @property
    def file(self) -> str:
        """The path to show, from the checkout's root."""
        return _short(self.path)

    @property
    def code(self) -> str:
        """The source after its docstring."""
        first = ast.parse(self.source).body[0]
        return "".join(self.source.splitlines(keepends=True)[first.end_lineno :])

    @property
    def code_sha256(self) -> str:
        """SHA-256 of the code; see `code_sha256`."""
        return code_sha256(self.source)


@dataclass(frozen=True, kw_only=True)
class Iteration(Entry):
    """An entry together with what it defines, which takes running its file."""

    recipe: Recipe


def path(number: int, folder: Path = EXPERIMENTS) -> Path:
    """The file of an iteration, whether it is there or not."""
    return folder / f"model_{number}.py"


def numbers(folder: Path = EXPERIMENTS) -> list[int]:
    """The numbers of all iterations in `folder`, ascending."""
    names = (re.fullmatch(r"model_([1-9]\d*)\.py", file.name) for file in folder.glob("model_*.py"))
    return sorted(int(match[1]) for match in names if match)


def read(number: int, folder: Path = EXPERIMENTS) -> Entry:
    """Read the file of an iteration, without running it.

    Raises ExpectedError when there is no such file, or it is no Python with a docstring of the
    four sections.
    """
    file = path(number, folder)
    source = _read(file, number, folder)
    try:
        docstring = ast.get_docstring(ast.parse(source))
        code_sha256(source)  # whoever has an entry can have its hash
    except SyntaxError as error:
        raise _syntax_error(error, file) from None
    except (MemoryError, RecursionError):
        raise ExpectedError(f"{_short(file)}: the code is nested too deeply") from None
    title, sections = docstring_sections(docstring or "", number, file)
    return Entry(number=number, source=source, title=title, sections=sections, folder=folder)


def load(number: int, folder: Path = EXPERIMENTS) -> Iteration:
    """Read and run the file of an iteration.

    Raises ExpectedError when there is no such file or it is not an iteration: a syntax error, an
    exception on import, no RECIPE, or a docstring without its sections.
    """
    file = path(number, folder)
    recipe = execute(_read(file, number, folder), file)
    return Iteration(**vars(read(number, folder)), recipe=recipe)


def execute(source: str, file: Path) -> Recipe:
    """Run the source of an iteration, which errors name as `file`; returns its RECIPE."""
    recipe = _execute(source, file).__dict__.get("RECIPE")
    if not isinstance(recipe, Recipe):
        raise ExpectedError(
            f"{_short(file)} has no RECIPE: end it with RECIPE = Recipe(network=Network, ...), "
            "as the other iterations do"
        )
    return recipe


def load_target(folder: Path = EXPERIMENTS) -> Target:
    """The bar in `experiments/target.py`."""
    file = folder / "target.py"
    target = _execute(_read(file), file).__dict__.get("TARGET")
    if not isinstance(target, Target):
        raise ExpectedError(f"{_short(file)} has no TARGET = Target(...): restore it from git")
    return target


def create(number: int, source: int, folder: Path = EXPERIMENTS) -> Path:
    """Start iteration `number` as a copy of iteration `source`, whose Analysis is not taken over;
    never overwrites."""
    if source not in numbers(folder):
        there = ", ".join(map(str, numbers(folder))) or "none"
        raise ExpectedError(f"FROM={source}: the iterations to copy from are {there}")
    text = re.sub(rf"\bModel {source}\b", f"Model {number}", _read(path(source, folder)), count=1)
    text = re.sub(r'^Analysis:.*?(?="""|^\w+:)', UNWRITTEN, text, count=1, flags=re.DOTALL | re.M)
    new = path(number, folder)
    try:
        with new.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        raise ExpectedError(f"{_short(new)} is there already; choose another MODEL") from None
    return new


def docstring_sections(docstring: str, number: int, file: Path) -> tuple[str, dict[str, str]]:
    """The title and the sections of the docstring of iteration `number`, which stands in `file`.

    The first line is `Model <number>: title.`; a section starts with its name and a colon at the
    start of a line, and goes on to the next one. Line breaks inside a section are folded.
    """
    lines = inspect.cleandoc(docstring).splitlines()
    title = re.fullmatch(rf"Model {number}: (.+?)\.?", lines[0].strip()) if lines else None
    text = "\n".join(lines[1:])
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", text, flags=re.MULTILINE)
    sections = {
        name: printable(" ".join(body.split()))
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    absent = [name for name in SECTIONS if name not in sections]
    if title is None or absent:
        heading = [] if title else [f"the title line 'Model {number}: ...'"]
        lacks = ", ".join(heading + absent)
        raise ExpectedError(f"the docstring of {_short(file)} lacks {lacks}: see {_short(path(1))}")
    return printable(title[1]), sections


def code_sha256(source: str) -> str:
    """SHA-256 (hexadecimal) of the code without its docstrings, comments and layout.

    Taken of the syntax tree, without its empty fields, of which newer Pythons have more: an
    Analysis added after the run does not change the hash, nor does another version of Python, but
    for an f-string with a format inside a format, f"{x:{width}}", which Python 3.12 reads
    differently.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, scope) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(repr(_structure(tree)).encode()).hexdigest()


def has_code(source: str, sha256: str) -> bool:
    """Whether `source`, which may be anything, is code of that hash."""
    try:
        return code_sha256(source) == sha256
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _structure(node: object) -> object:
    if isinstance(node, ast.AST):
        fields = [(key, _structure(value)) for key, value in ast.iter_fields(node)]
        return type(node).__name__, [
            (key, value) for key, value in fields if value not in (None, [])
        ]
    return [_structure(item) for item in node] if isinstance(node, list) else node


def where(error: BaseException, file: Path) -> str:
    """One line that says which line of an iteration's `file` an exception came from, and what."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    place = f"{_short(file)}, line {lines[-1]}" if lines else _short(file)
    return f"{place}: {' '.join(f'{type(error).__name__}: {error}'.split())}"


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _read(file: Path, number: int | None = None, folder: Path = EXPERIMENTS) -> str:
    try:
        if file.exists() and not file.is_file():  # a device may have no end
            raise ExpectedError(f"{_short(file)} is no file")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"there is no {_short(file)}" if number is None else _missing(number, folder)
        raise ExpectedError(message) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExpectedError(f"{_short(file)} cannot be read: {error}") from None


def _missing(number: int, folder: Path) -> str:
    there = ", ".join(map(str, numbers(folder))) or "none"
    return (
        f"there is no {_short(path(number, folder))}; the iterations are {there} "
        f"(make new MODEL={number} FROM=<one of them> starts it)"
    )


def _execute(source: str, file: Path) -> types.ModuleType:
    module = types.ModuleType(f"experiments.{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where a dataclass looks for what its annotations name
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    except SyntaxError as error:
        raise _syntax_error(error, file) from None
    except (Exception, SystemExit) as error:
        raise ExpectedError(where(error, file)) from None
    finally:
        sys.modules.pop(module.__name__, None)
    return module


def _syntax_error(error: SyntaxError, file: Path) -> ExpectedError:
    place = f", line {error.lineno}" if error.lineno else ""
    return ExpectedError(f"{_short(file)}{place}: syntax error: {error.msg}")


def _short(file: Path) -> str:
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
