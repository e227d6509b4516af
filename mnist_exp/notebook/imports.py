"""Which files of the notebook a file imports, as its syntax tree says; nothing is run.

A helper is a file of `experiments/` that an iteration imports, itself or through another helper. It
is known by its path from that folder: `blocks.py`, `blocks/__init__.py`.
"""

import ast
from collections.abc import Callable, Iterator
from itertools import accumulate

PACKAGE = "experiments"
"""What the modules of the notebook are imported from."""

Exists = Callable[[str], bool]


def reachable(file: str, source: str, read: Callable[[str], str | None]) -> dict[str, str]:
    """The sources of the helpers that `file` imports, itself or through others of them, by name.

    `source` is that of the file. `read` gives the source of another, or None where there is none;
    it is asked once for each. Raises what `ast.parse` raises.
    """
    texts: dict[str, str | None] = {file: source}
    helpers: dict[str, str] = {}

    def exists(name: str) -> bool:
        if name not in texts:
            texts[name] = read(name)
        return texts[name] is not None

    waiting = [(file, source)]
    while waiting:
        name, text = waiting.pop()
        modules = imported(ast.parse(text), package_of(name))
        for found in {found for module in modules for found in files(module, exists)}:
            helper = texts[found]
            if found != file and found not in helpers and helper is not None:
                helpers[found] = helper
                waiting.append((found, helper))
    return dict(sorted(helpers.items()))


def imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The full names of what a module of that package imports from the notebook, as in
    `experiments.blocks.Net`: modules, and what may be a module or a name in one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node.module or "", package, node.level)
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == PACKAGE)


def absolute(name: str, package: str, level: int) -> str:
    """The full name of what a module of `package` imports as `name` with that many leading dots;
    empty where they lead out of the notebook."""
    if not level:
        return name
    parts = package.split(".")
    above = parts[: max(0, len(parts) - level + 1)]
    return ".".join([*above, *filter(None, [name])]) if above else ""


def files(module: str, exists: Exists) -> Iterator[str]:
    """The files that are run when a module is imported, of those that exist: the packages that it
    lies in, from the outermost, and its own. A name in a module leads to the file of the module."""
    for name in accumulate(module.split("."), "{}.{}".format):
        file = file_of(name, exists)
        if file:
            yield file
        if file and not file.endswith("__init__.py"):
            return


def file_of(module: str, exists: Exists) -> str | None:
    """The file of a module of the notebook; None where there is none, as of a folder alone."""
    folder = folder_of(module)
    names = [f"{folder}__init__.py", *([f"{folder[:-1]}.py"] if folder else [])]
    return next(filter(exists, names), None)  # as Python does: a package before a module


def folder_of(module: str) -> str:
    """The folder of a package of the notebook, with a slash at its end; empty for that of all."""
    return "".join(f"{part}/" for part in module.split(".")[1:])


def package_of(file: str) -> str:
    """The package that a file's relative imports start from: that of its folder."""
    return ".".join([PACKAGE, *file.split("/")[:-1]])
