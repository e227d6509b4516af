"""The files of the notebook are run: an iteration gives its recipe, `target.py` the target."""

import dataclasses
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import guessed
from mnist_exp.notebook import entries
from mnist_exp.notebook.code_hash import NO_HELPERS
from mnist_exp.notebook.entries import EXPERIMENTS, Entry
from mnist_exp.notebook.modules import Modules, notebook_frame
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
    file = entries.path(number, folder)
    source = entries.read_source(number, folder)  # once: what is run here is what is recorded
    helpers = entries.read_helpers(source, file)
    recipe = execute(source, file, helpers)
    return Iteration(**vars(entries.parse(source, number, folder, helpers)), recipe=recipe)


def recipe_of(entry: Entry) -> Recipe:
    """Run the code of an iteration that was read before, in modules that nothing else shares.

    Raises ExpectedError for an exception, or when there is no RECIPE.
    """
    return execute(entry.source, entry.path, entry.helpers)


def execute(source: str, file: Path, helpers: Mapping[str, str] = NO_HELPERS) -> Recipe:
    """Run the source of an iteration, which errors name as `file`; returns its RECIPE."""
    recipe = _execute(source, file, helpers).get("RECIPE")
    if not isinstance(recipe, Recipe):
        raise ExpectedError(
            f"{entries.shown_path(file)} has no RECIPE: end it with RECIPE = "
            "Recipe(network=Network, ...), as the other iterations do"
        )
    return recipe


def load_target(folder: Path = EXPERIMENTS) -> Target:
    """The bar in `experiments/target.py`."""
    file = folder / "target.py"
    source = entries.read_text(file)
    target = _execute(source, file, entries.read_helpers(source, file)).get("TARGET")
    if not isinstance(target, Target):
        raise ExpectedError(
            f"{entries.shown_path(file)} has no TARGET = Target(...): restore it from git"
        )
    return target


def where(error: BaseException, file: Path) -> str:
    """One line that says what an exception is, and which line it came from: the innermost of an
    iteration and its helpers, or `file` as a whole."""
    place = entries.shown_path(file)
    for frame, line in traceback.walk_tb(error.__traceback__):
        code_file = frame.f_globals.get("__file__")  # not so in what dataclasses write
        if notebook_frame(frame) and frame.f_code.co_filename == code_file:
            place = f"{entries.shown_path(Path(code_file))}, line {line}"
    return f"{place}: {' '.join(f'{type(error).__name__}: {error}'.split())}{_fields(error)}"


def _fields(error: BaseException) -> str:
    """What a recipe has, where it was given something else."""
    unknown = re.match(
        r"Recipe\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)
    )
    if not unknown:
        return ""
    names = [field.name for field in dataclasses.fields(Recipe)]
    return f"; {guessed(unknown[1], names)}a recipe has {', '.join(sorted(names))}"


def _execute(source: str, file: Path, helpers: Mapping[str, str]) -> dict[str, object]:
    """What the module holds that the source makes; ExpectedError names the line that fails."""
    modules = Modules(file, source, helpers)
    try:
        return vars(modules.load(modules.main))
    except SyntaxError as error:
        failing = [own for own in modules.files.values() if str(own) == error.filename]
        if failing:
            raise entries.syntax_error(error, failing[0]) from None
        raise ExpectedError(where(error, file)) from None
    except (Exception, SystemExit) as error:  # whatever is written in the file
        raise ExpectedError(where(error, file)) from None
