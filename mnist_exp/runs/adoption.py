"""Somebody's file with a network becomes an iteration, once its draft passes the static check."""

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import printable
from mnist_exp.notebook import adopt, entries, new
from mnist_exp.notebook.adopt import Draft
from mnist_exp.notebook.entries import EXPERIMENTS, Entry
from mnist_exp.notebook.excerpt import Script
from mnist_exp.runs import check
from mnist_exp.training import classifier
from mnist_exp.training.loop import build

SEED = 1
LONGEST_TITLE = 60
FORMS = {
    (784,): "flattened images, (N, 784): let its forward begin with x = x.flatten(1)",
    (28, 28): "images without channels, (N, 28, 28): let its forward begin with x = x.squeeze(1)",
    (3, 28, 28): "three channels: let its forward begin with x = x.expand(-1, 3, -1, -1)",
    (1, 32, 32): "images of 32 x 32: let its forward begin with "
    "x = torch.nn.functional.pad(x, (2, 2, 2, 2))",
}
"""Other shapes that networks are written for, and what to do about it."""

CAUTION = (
    "{} gives probabilities, and the loss takes the softmax itself: without the softmax at its end "
    "it would learn faster"
)


@dataclass(frozen=True)
class Adopted:
    """An iteration that was made of a file."""

    entry: Entry
    network: str
    parameters: int
    caution: str
    """What may be wrong with it; empty where nothing is."""


def adopt_file(
    file: Path, *, like: int, network: str | None = None, name: str | None = None,
    number: int | None = None, folder: Path = EXPERIMENTS,
) -> Adopted:  # fmt: skip
    """Make an iteration of a Python file, with the recipe of iteration `like`.

    `network` is the class, or a function without arguments that makes one; needed where the file
    has several and it cannot be told which. `name` is the title, by default that of the file.
    `number` is by default the next one. Raises ExpectedError, and leaves no file, where the result
    would be no iteration that can be trained.
    """
    script = _read_script(file)
    number = number or max(entries.numbers(folder), default=0) + 1
    title = name or printable(file.stem.replace("_", " ").title())[:LONGEST_TITLE]
    other = entries.read_entry(like, folder)

    def tried(own: str) -> Entry:
        return _tried(adopt.draft(number, folder, title, script, own, other))

    entry, chosen = _chosen(script, network, tried)
    with _silent():
        recipe = check.recipe_from(entry, SEED)
        made = build(recipe, SEED)
        probabilities = _gives_probabilities(made, classifier.example_input(recipe))
    new.write_new(entry.path, entry.source)
    caution = CAUTION.format(chosen) if probabilities else ""
    return Adopted(entry, chosen, classifier.count_parameters(made), caution)


def _read_script(file: Path) -> Script:
    shown = printable(str(file))
    text = entries.read_text(file).removeprefix("\ufeff")
    if file.suffix == ".ipynb":
        shown, text = f"{shown} (code cells)", _code_cells(text, shown)
    try:
        return Script(text, shown)
    except SyntaxError as error:
        place = f", line {error.lineno}" if error.lineno else ""
        raise ExpectedError(f"{shown}{place}: syntax error: {error.msg}") from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise ExpectedError(f"{shown} cannot be read as Python: {error}") from None


def _code_cells(notebook: str, shown: str) -> str:
    """The code of a Jupyter notebook, without what is said to IPython alone."""
    try:
        cells = json.loads(notebook)["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ExpectedError(f"{shown} is no Jupyter notebook") from None
    code = [text for text in texts if not re.match(r"\s*%%(?!time|capture)", text)]
    return re.sub(r"^(\s*)[%!].*", r"\1pass", "\n".join(code), flags=re.MULTILINE)


def _chosen(
    script: Script, network: str | None, tried: Callable[[str], Entry]
) -> tuple[Entry, str]:
    """The iteration of the network that is asked for, or of the only one that can be trained, and
    what that is called."""
    if network and not (script.definition(network) or script.made(network)):
        raise ExpectedError(f"CLASS={network[:40]}: {_described(script)}")
    candidates = [network] if network else script.networks()
    if len(candidates) == 1:
        return tried(candidates[0]), candidates[0]
    passing = []
    for own in candidates:
        with contextlib.suppress(ExpectedError):
            passing.append((tried(own), own))
    if len(passing) != 1:
        raise ExpectedError(_described(script))
    return passing[0]


def _described(script: Script) -> str:
    """What there is to choose from."""
    networks = script.networks()
    if not networks:
        return (
            f"{script.file} has no class made of torch.nn.Module; CLASS= may also name a function "
            "without arguments that returns a network"
        )
    names = ", ".join(networks)
    return f"{script.file} has {names}: choose one, as in CLASS={networks[-1]}"


def _tried(draft: Draft) -> Entry:
    """The iteration that is drafted, after the static check.

    Raises ExpectedError, which names the line of the script.
    """
    number, folder = draft.number, draft.file.parent
    entry = None
    try:
        helpers = entries.read_helpers(draft.text, draft.file)
        entry = entries.parse(draft.text, number, folder, helpers)
        with _silent():
            check.check_recipe(entry, SEED)
    except ExpectedError as error:
        hint = _other_form(entry) if entry else ""
        raise ExpectedError(draft.at_origin(str(error)) + hint) from None
    return entry


def _other_form(entry: Entry) -> str:
    """What to do where the network takes images of another form; empty where it does not."""
    with _silent(), contextlib.suppress(Exception):  # whatever the network raises
        recipe = check.recipe_from(entry, SEED)
        network = recipe.network().eval()
        with contextlib.suppress(Exception):
            network(classifier.example_input(recipe))
            return ""  # it is something else
        for shape, remedy in FORMS.items():
            with contextlib.suppress(Exception):
                if network(torch.zeros(2, *shape)).shape == (2, 10):
                    return f"; it takes {remedy}"
    return ""


def _gives_probabilities(network: nn.Module, images: Tensor) -> bool:
    """Whether the network ends in a softmax, as far as its output tells."""
    output = network.eval()(images)
    sums = output.detach().sum(1)
    return bool((output >= 0).all()) and torch.allclose(sums, torch.ones(len(sums)), atol=1e-3)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """A block in which the code of somebody's file runs; what it prints is not shown."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
