"""An iteration is drafted from somebody's file with a network, and the recipe of another iteration.

Nothing is run here; `runs.adoption` tries the draft before it becomes a file.
"""

import ast
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import UNWRITTEN, Entry
from mnist_exp.notebook.excerpt import (
    Definition,
    ImportLine,
    Script,
    Statement,
    is_future,
    targets,
)

WIDEST = 100
"""Characters of a line."""
OUTSIDE = ("torchvision.datasets", "torch.utils.data", "argparse", "sys.argv", "open", "input")
"""What no value that a network needs may come from: digits, files and command lines."""
OURS = ("mnist_exp", "experiments")

Line = tuple[str, str]
"""A line of the draft, and where it was taken from, as in "alice.py, line 3"."""


@dataclass(frozen=True)
class Draft:
    """The file of an iteration that is not there yet."""

    number: int
    file: Path
    """Where it is to stand."""
    script: str
    """The file that its network comes from, as errors call it."""
    lines: list[Line]

    @property
    def text(self) -> str:
        return "".join(f"{text}\n" for text, _ in self.lines)

    def at_origin(self, message: str) -> str:
        """A message that names lines of the draft, with the places that they were taken from."""
        file = re.escape(entries.shown_path(self.file))
        return re.sub(rf"{file}(?:, line (\d+))?", lambda found: self._place(found[1]), message)

    def _place(self, line: str | None) -> str:
        before = self.lines[int(line) - 1 :: -1] if line else []
        return next((place for _, place in before if place), self.script)


@dataclass(frozen=True)
class Part:
    """What is taken of a file: statements, and those of the names that they import."""

    script: Script
    statements: list[Statement]

    @property
    def meanings(self) -> dict[str, str]:
        """What each of its names stands for."""
        reads = {name for statement in self.statements for name in statement.reads}
        meanings: dict[str, str] = {}
        for statement in self.statements:
            if isinstance(statement.node, ImportLine):
                meanings |= {name: full for name, full in targets(statement.node) if name in reads}
            else:
                meanings |= dict.fromkeys(statement.binds, self.script.file)
        return meanings

    @property
    def code(self) -> list[Statement]:
        """Its statements without the imports."""
        return [one for one in self.statements if not isinstance(one.node, ImportLine)]


def draft(number: int, folder: Path, name: str, script: Script, network: str, like: Entry) -> Draft:
    """Iteration `number`, called `name`: the network of a script, and the recipe of `like`.

    Raises ExpectedError where the network cannot be taken out of its script, or the two cannot
    stand in one file.
    """
    _refuse_arguments(script, network)
    other = Script(like.source, like.file)
    taken = Part(script, _network(script, network))
    _refuse_outside(taken, network)
    _refuse_beside(taken, network)
    needed = other.needed(_recipe(other, "None").reads)
    around = Part(other, [*needed, _recipe(other, network)])
    theirs = around.meanings
    for twice, meaning in taken.meanings.items():
        if theirs.get(twice, meaning) != meaning:
            raise ExpectedError(
                f"{script.file} and {other.file}, whose recipe is taken, call different things "
                f"{twice}: choose another LIKE, or another name in {script.file}"
            )
    file = Path(script.file).name
    change = f"{network} of {file}, with the recipe of model {like.number}."
    lines = [
        *((line, "") for line in _docstring(number, name, change)),
        *_imports([taken, around]),
        *_code([taken, around]),
    ]
    own = f"{script.file}, line {script.line_of(network)}"
    return Draft(
        number,
        entries.path(number, folder),
        script.file,
        [(text, own if "network=" in text else at) for text, at in lines],
    )


def _network(script: Script, network: str) -> list[Statement]:
    """What the network needs. Where it is made at the top of the file, a function makes it."""
    made = script.made(network)
    if made is None or script.definition(network):
        return script.needed([network])
    text = f"def {network}():\n    return {ast.unparse(made)}"
    function = Statement(ast.parse(text).body[0], text, made.lineno)
    return [*script.needed(function.reads), function]


def _recipe(like: Script, network: str) -> Statement:
    """The statement that makes the recipe, with another network."""
    statement = next((s for s in reversed(like.statements) if "RECIPE" in s.binds), None)
    tree = ast.parse(statement.text if statement else "0")
    made = getattr(tree.body[0], "value", None)
    if statement is None or not isinstance(made, ast.Call):
        raise ExpectedError(
            f"{like.file} has no RECIPE = Recipe(...) that could be taken: choose another LIKE"
        )
    given = next((word.value for word in made.keywords if word.arg == "network"), None)
    if given is None:
        made.keywords.append(ast.keyword("network", ast.Name(network)))
        text = ast.unparse(tree)
    else:
        lines = statement.text.encode().splitlines(keepends=True)
        before = [*lines[: given.lineno - 1], lines[given.lineno - 1][: given.col_offset]]
        last = (given.end_lineno or 0) - 1
        after = [lines[last][given.end_col_offset :], *lines[last + 1 :]]
        text = b"".join([*before, network.encode(), *after]).decode()
    return Statement(ast.parse(text).body[0], text, statement.line)


def _refuse_arguments(script: Script, network: str) -> None:
    """Raise ExpectedError where the network cannot be made without arguments."""
    node = made = script.definition(network)
    seen = []
    while isinstance(made, ast.ClassDef) and made not in seen:
        seen.append(made)  # it is made by its own method, or by that of what it derives from
        own = {one.name: one for one in made.body if isinstance(one, ast.FunctionDef)}
        base = script.full_name(made.bases[0]) if made.bases else ""
        made = own.get("__init__", script.definition(base))
    if not isinstance(made, ast.FunctionDef):
        return
    given = [*made.args.posonlyargs, *made.args.args][isinstance(node, ast.ClassDef) :]
    needed = given[: len(given) - len(made.args.defaults)]
    named = zip(made.args.kwonlyargs, made.args.kw_defaults, strict=True)
    needed += [argument for argument, default in named if default is None]
    if needed:
        names = ", ".join(argument.arg for argument in needed)
        raise ExpectedError(
            f"{script.file}, line {made.lineno}: {network} needs {names}, and a recipe makes it "
            f"without: give defaults there, as in {needed[0].arg}=10"
        )


def _refuse_outside(part: Part, network: str) -> None:
    """Raise ExpectedError where a value that the network needs comes from outside its file."""
    for statement in part.code:
        if isinstance(statement.node, Definition):
            continue
        for full in map(part.script.full_name, ast.walk(statement.node)):
            if any(f"{full}.".startswith(f"{name}.") for name in OUTSIDE):
                names = ", ".join(sorted(statement.binds)) or "what is done there"
                raise ExpectedError(
                    f"{part.script.file}, line {statement.line}: {network} needs {names}, which "
                    f"takes {full}: write the value itself into the file, as in width = 16"
                )


def _refuse_beside(part: Part, network: str) -> None:
    """Raise ExpectedError where the network needs another file that lies beside its own."""
    folder = Path(part.script.file).parent
    for statement in part.statements:
        if not isinstance(statement.node, ImportLine):
            continue
        for full in part.meanings.keys() & dict(targets(statement.node)):
            module = part.meanings[full].lstrip(".").partition(".")[0]
            beside = [folder / f"{module}.py", *(folder / module).glob("*.py")]
            if module not in OURS and any(file.is_file() for file in beside):
                raise ExpectedError(
                    f"{part.script.file}, line {statement.line}: {network} needs {full} of another "
                    f"file, {module}: put it into {part.script.file}, or copy that file to "
                    f"experiments/ and write from experiments.{module} import ..."
                )


def _docstring(number: int, name: str, change: str) -> Iterator[str]:
    """The lines of a docstring in which only the change is written."""
    sections = dict.fromkeys(entries.SECTIONS, f"{UNWRITTEN}.") | {"Change": change}
    lines = [f"Model {number}: {name}.", ""]
    for section, text in sections.items():
        lines += textwrap.wrap(f"{section}: {text}", WIDEST, subsequent_indent="    ")
    text = "\n".join(lines).replace("\\", r"\\").replace('"""', r"\"\"\"")
    yield from f'"""{text}\n"""'.splitlines()


def _imports(parts: Iterable[Part]) -> Iterator[Line]:
    """The import lines of some parts as one block, in isort's order; each name once."""
    modules: dict[str, str] = {}
    members: dict[str, dict[str, str]] = defaultdict(dict)
    for part in parts:
        meanings = part.meanings
        for statement in part.statements:
            node, place = statement.node, f"{part.script.file}, line {statement.line}"
            if not isinstance(node, ImportLine):
                continue
            for alias, (bound, _) in zip(node.names, targets(node), strict=True):
                if bound not in {*meanings, "*"} and not is_future(node):
                    continue
                if isinstance(node, ast.Import):
                    modules.setdefault(ast.unparse(alias), place)
                else:
                    module = "." * node.level + (node.module or "")
                    members[module].setdefault(ast.unparse(alias), place)
    lines = [(_group(name), 0, name, f"import {name}", place) for name, place in modules.items()]
    for module, own in members.items():
        place = next(iter(own.values()))
        text = _from(module, sorted(own, key=_by_type))
        lines += [(_group(module), 1, module, text, place)]
    group = None
    for line in sorted(lines):
        if line[0] != group:
            yield "", ""
        group = line[0]
        yield from ((text, line[4]) for text in line[3].splitlines())


def _from(module: str, names: list[str]) -> str:
    text = f"from {module} import {', '.join(names)}"
    if len(text) <= WIDEST:
        return text
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def _group(module: str) -> int:
    """Which block of imports a module belongs to."""
    top = re.split(r"[. ]", module)[0]
    if top == "__future__":
        return 0
    if top in sys.stdlib_module_names:
        return 1
    return 3 if top in ("", *OURS) else 2


def _by_type(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as isort orders what is imported from a module."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2), name


def _code(parts: Iterable[Part]) -> Iterator[Line]:
    """The statements that are no imports, with blank lines around classes and functions."""
    before: ast.AST | None = None
    for script, statement in [(part.script, own) for part in parts for own in part.code]:
        apart = isinstance(before, Definition) or isinstance(statement.node, Definition)
        yield from [("", "")] * (2 if apart else 0 if before else 1)
        for line, text in enumerate(statement.text.splitlines(), start=statement.line):
            yield text, f"{script.file}, line {line}"
        before = statement.node
