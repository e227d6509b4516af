"""The code of the notebook as modules that are made for one execution, and shared with no other.

What is executed is text that was read before, hashed and kept: an `import` of a helper, wherever it
stands and whenever it is reached, finds that text and not the file. Other code of the checkout, and
its data, would take part in a run and leave no trace, so reaching them is an ImportError.
"""

import builtins
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from mnist_exp import ROOT
from mnist_exp.notebook import imports
from mnist_exp.notebook.entries import shown_path
from mnist_exp.notebook.imports import PACKAGE

VOCABULARY = ("augment", "preprocess", "recipe", "views")
"""What the notebook may import of mnist_exp."""
CODE = (".py", ".pyc", ".so", ".pyd", ".dylib", ".c", ".cc", ".cpp", ".cu")
"""How the names of files end that hold code."""
NO_READING = os.O_CREAT | getattr(os, "O_DIRECTORY", 0)
"""Flags with which a file is opened to be written, or a folder."""


class Modules:
    """The modules of one execution, each executed when it is first imported.

    `source` and `helpers` (by name, as in `imports`) are what there is to execute. `file` is what
    errors call the former; the helpers lie beside it, or in it where it is no Python file.
    """

    def __init__(self, file: Path, source: str, helpers: Mapping[str, str]) -> None:
        main = f"{file.stem}.py"
        self.main = f"{PACKAGE}.{file.stem}"
        self.folder = file.parent if file.suffix == ".py" else file
        self.sources = {**helpers, main: source}
        self.files = {name: self.folder / name for name in helpers} | {main: file}
        self._modules: dict[str, ModuleType] = {}
        self._begun: set[str] = set()
        own = {"__import__": self._import, "exec": _refuse_text, "compile": _refuse_text}
        self._builtins = vars(builtins) | own
        _watch()

    def load(self, name: str) -> ModuleType:
        """A module of the notebook, which is executed after those packages that it lies in.

        Raises ModuleNotFoundError where it is none of the files, SyntaxError, and whatever the code
        raises.
        """
        package, _, child = name.rpartition(".")
        above = self.load(package) if package else None
        if name not in self._modules:  # which its package may have imported by now
            with self._registered():
                self._execute(name)
            if above:
                setattr(above, child, self._modules[name])
        return self._modules[name]

    def _execute(self, name: str) -> None:
        file = imports.file_of(name, self.sources.__contains__)
        if not file and not self._is_folder(name):
            raise ModuleNotFoundError(self._absence(name), name=name)
        is_package = not file or file.endswith("__init__.py")
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=is_package)
        module.__package__ = module.__spec__.parent
        if is_package:
            module.__path__ = [str(self.folder / imports.folder_of(name))]
        module.__dict__["__builtins__"] = self._builtins
        sys.modules[name] = self._modules[name] = module  # first, as it may import itself
        if file is None:
            return
        module.__file__ = str(self.files[file])
        self._begun.add(name)
        try:
            code = compile(self.sources[file], module.__file__, "exec", dont_inherit=True)
            exec(code, module.__dict__)
        except BaseException:
            del self._modules[name], sys.modules[name]
            raise
        finally:
            self._begun.discard(name)

    def _is_folder(self, name: str) -> bool:
        folder = imports.folder_of(name)
        return any(file.startswith(folder) for file in self.sources)

    def _absence(self, name: str) -> str:
        """Why there is no module of that name."""
        file = imports.file_of(name, lambda file: (self.folder / file).is_file())
        if file is None:
            return f"there is no {shown_path(self.folder)}/{imports.folder_of(name)[:-1]}.py"
        return (
            f"{shown_path(self.folder / file)} is imported in a way that cannot be found by "
            f"reading the file: write `import {name}` or `from {name} import ...`"
        )

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """Let `sys.modules` have these modules of the notebook and no others while one of them is
        executed, as dataclasses look there for what annotations name."""
        if sys.modules.get(PACKAGE, self) is self._modules.get(PACKAGE):
            yield  # around this one another is executed
            return
        others = {name: sys.modules[name] for name in list(sys.modules) if _of_notebook(name)}
        _exchange(others, self._modules)
        try:
            yield
        finally:
            _exchange([name for name in sys.modules if _of_notebook(name)], others)

    def _import(
        self, name: str, globals: Mapping[str, Any] | None = None, _: object = None,  # noqa: A002
        fromlist: Sequence[str] | None = (), level: int = 0,
    ) -> ModuleType:  # fmt: skip
        """What `import` does in these modules; takes and returns what `__import__` does."""
        names = fromlist or ()
        package = str((globals or {}).get("__package__") or PACKAGE)
        full = imports.absolute(name, package, level)
        if _of_notebook(full):
            return self._import_own(full, names)
        if full.partition(".")[0] == "mnist_exp":
            return _import_vocabulary(full, names)
        module = __import__(name, globals, None, names, level)
        for loaded in (name, *(f"{name}.{child}" for child in names)):
            file = getattr(sys.modules.get(loaded), "__file__", None)
            if file and _is_foreign(file, self.folder):
                _refuse(file)
        return module

    def _import_own(self, full: str, names: Sequence[str]) -> ModuleType:
        module = self.load(full)
        for name in names:
            child = f"{full}.{name}"
            if hasattr(module, name) or name == "*" or child in self._modules:
                continue
            if imports.file_of(child, self.sources.__contains__) or self._is_folder(child):
                self.load(child)
            elif full in self._begun:
                raise ImportError(
                    f"cannot import name {name!r} from {full}, which is not yet executed: "
                    "they import each other"
                )
            elif hasattr(module, "__path__"):
                raise ImportError(
                    f"cannot import name {name!r} from {full}: {self._absence(child)}"
                )
        return module if names else self.load(PACKAGE)


def notebook_frame(frame: FrameType) -> Modules | None:
    """The modules that the code of a frame belongs to; None where it is no code of the notebook."""
    modules = getattr(frame.f_builtins.get("__import__"), "__self__", None)
    return modules if isinstance(modules, Modules) else None


def _of_notebook(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE


def _exchange(old: Iterable[str], new: Mapping[str, ModuleType]) -> None:
    for name in old:
        del sys.modules[name]
    sys.modules.update(new)


def _import_vocabulary(full: str, names: Sequence[str]) -> ModuleType:
    for name in full.split(".")[1:2] or names:
        if name not in VOCABULARY:
            raise ImportError(
                f"mnist_exp.{name} is not for the notebook, which may import mnist_exp."
                + ", mnist_exp.".join(VOCABULARY)
            )
    if names:
        return __import__(full, None, None, names)
    package = ModuleType("mnist_exp")  # the real one would lead to all of its rooms
    for name in VOCABULARY:
        setattr(package, name, importlib.import_module(f"mnist_exp.{name}"))
    return package


@cache
def _watch() -> None:
    """Have Python tell of each file that this process opens, from now on."""
    sys.addaudithook(_audit)


def _audit(event: str, details: tuple[Any, ...]) -> None:
    """Raise ImportError where code of the notebook makes Python open other code of the checkout, or
    read data there."""
    if event not in ("open", "import", "ctypes.dlopen"):
        return
    path = details[1] if event == "import" else details[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return
    file = os.fsdecode(path)
    if event == "open":
        if details[2] & os.O_WRONLY or (not file.endswith(CODE) and details[2] & NO_READING):
            return
    elif not file.endswith(CODE):
        return
    frame: FrameType | None = sys._getframe(1)
    if frame and frame.f_globals.get("__name__") == "tokenize":
        return  # by which a warning or an error shows a line of its source
    while frame:
        if modules := notebook_frame(frame):
            if _is_foreign(file, modules.folder):
                _refuse(file)
            return
        frame = frame.f_back


@cache
def _is_foreign(file: str, folder: Path) -> bool:
    """Whether a file is of the checkout or the folder, but neither of the package nor installed."""
    real, root, package = _real(file), _real(ROOT), _real(Path(__file__).parents[1])
    if not (real.is_relative_to(root) or real.is_relative_to(_real(folder))):
        return False
    environments = {_real(sys.prefix), _real(sys.base_prefix)}
    inside = {package, *(own for own in environments if root in own.parents)}
    return "site-packages" not in real.parts and not any(map(real.is_relative_to, inside))


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _refuse(file: str) -> NoReturn:
    source = source_from_cache(file) if file.endswith(".pyc") else file
    if not file.endswith(CODE):
        raise ImportError(
            f"{shown_path(_real(file))} is data that no run would keep, nor miss when it changes: "
            f"write it as code, in the iteration or in a file that it imports from {PACKAGE}/"
        )
    raise ImportError(
        f"{shown_path(_real(source))} is code that no run would keep: an iteration imports files "
        f"of {PACKAGE}/ alone, and by their full names, as in `from {PACKAGE}.blocks import ...`"
    )


def _refuse_text(*_: object, **__: object) -> NoReturn:
    raise ImportError("exec and compile run code that no run would keep: write it as code")
