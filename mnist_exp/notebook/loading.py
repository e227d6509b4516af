"""The files of the notebook are run: an iteration gives its recipe, `target.py` the target."""

import dataclasses
import sys
import traceback
import types
from dataclasses import dataclass
from pathlib import Path

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import EXPERIMENTS, Entry
from mnist_exp.recipe import Recipe, Target


@dataclass(frozen=True, kw_only=True)
class Iteration(Entry):
    """An entry together with what it defines, which takes running its file."""

    recipe: Recipe

    @property
    def entry(self) -> Entry:
        """The file alone, as it reads."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Entry)}
        return Entry(**fields)


def load_iteration(number: int, folder: Path = EXPERIMENTS) -> Iteration:
    """Read and run the file of an iteration.

    Raises ExpectedError when there is no such file or it is not an iteration: a syntax error, an
    exception on import, no RECIPE, or a docstring without its sections.
    """
    source = entries.read_source(number, folder)  # once: what is run here is what is recorded
    recipe = execute(source, entries.path(number, folder))
    return Iteration(**vars(entries.parse(source, number, folder)), recipe=recipe)


def execute(source: str, file: Path) -> Recipe:
    """Run the source of an iteration, which errors name as `file`; returns its RECIPE."""
    recipe = _execute(source, file).__dict__.get("RECIPE")
    if not isinstance(recipe, Recipe):
        raise ExpectedError(
            f"{entries.shown_path(file)} has no RECIPE: end it with RECIPE = "
            "Recipe(network=Network, ...), as the other iterations do"
        )
    return recipe


def load_target(folder: Path = EXPERIMENTS) -> Target:
    """The bar in `experiments/target.py`."""
    file = folder / "target.py"
    target = _execute(entries.read_text(file), file).__dict__.get("TARGET")
    if not isinstance(target, Target):
        raise ExpectedError(
            f"{entries.shown_path(file)} has no TARGET = Target(...): restore it from git"
        )
    return target


def where(error: BaseException, file: Path) -> str:
    """One line that says which line of an iteration's `file` an exception came from, and what."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    place = f"{entries.shown_path(file)}, line {lines[-1]}" if lines else entries.shown_path(file)
    return f"{place}: {' '.join(f'{type(error).__name__}: {error}'.split())}"


def _execute(source: str, file: Path) -> types.ModuleType:
    """The module that the source makes; ExpectedError names the line of `file` that fails."""
    module = types.ModuleType(f"experiments.{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where a dataclass looks for what its annotations name
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    except SyntaxError as error:
        raise entries.syntax_error(error, file) from None
    except (Exception, SystemExit) as error:  # whatever is written in the file
        raise ExpectedError(where(error, file)) from None
    finally:
        sys.modules.pop(module.__name__, None)
    return module
