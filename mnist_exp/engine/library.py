"""The engine's C++, compiled for the processor at hand, kept, and loaded.

All *.cpp of this folder become one shared library with a plain C interface. It is kept in the
user's cache folder, for every checkout, by a hash of all that decides what it computes: sources,
flags, compiler and processor.

Files are made under another name and renamed, so that a process that is killed leaves nothing
broken. Of several that come at once, one compiles and the others wait.

`python -m mnist_exp.engine.library` does it ahead, for make setup.
"""

import ctypes
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.processor import instruction_sets, processor

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FLAGS = (
    "-std=c++17", "-O3", "-shared", "-fPIC", "-pthread",
    # gcc calls "arch" what clang calls "cpu" everywhere but on Intel's and AMD's processors.
    "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native",
    # Nobody reads errno, or a processor's flags. Not -ffast-math: NaN and infinity must survive.
    "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
)  # fmt: skip
PATIENCE = 600.0
"""Seconds that a compiler may take: what pip brings makes its C++ library first."""
UNUSED = 60 * 24 * 3600
"""Seconds after which what nobody has loaded is removed from the cache."""
CHECK = """
import ctypes, sys
numbers = (ctypes.c_float * 67)(*range(67))
ctypes.CDLL(sys.argv[1]).double_and_add_one(numbers, 67)
assert list(numbers) == [2 * i + 1 for i in range(67)]
"""

Command = tuple[str, ...]
"""The words that begin each call of a compiler."""


class UnavailableError(ExpectedError):
    """The engine cannot be had on this machine; the text says why, and what to do."""

    def __init__(self, why: str, what_to_do: str) -> None:
        super().__init__(f"the engine cannot be compiled: {why}; {what_to_do}")


class CompilerError(UnavailableError):
    """There is no compiler, or none that works."""


def loaded() -> ctypes.CDLL:
    """The library of the engine's kernels, compiled first where it is not kept.

    Raises UnavailableError.
    """
    return _once()[0]


def sha256() -> str:
    """SHA-256 of what decides what the library computes: sources, flags, compiler and processor."""
    return _once()[1]


@cache
def _once() -> tuple[ctypes.CDLL, str]:
    file = compiled(SOURCES, cache_folders())
    try:
        return ctypes.CDLL(str(file)), file.name.partition("-")[0]
    except OSError as error:
        raise UnavailableError(f"{file} does not load: {error}", "remove that file") from None


def cache_folders() -> list[Path]:
    """Where libraries are kept: in the user's cache folder, or if there is no writing to it, in a
    folder of the user's own for temporary files."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    folders = [caches / "mnist-exp", Path(tempfile.gettempdir()) / f"mnist-exp-{user}"]
    return [folder for folder in folders if folder.is_absolute()]  # not "~", of a nameless user


def compiled(sources: Path, folders: Sequence[Path], patience: float = PATIENCE) -> Path:
    """The library of the *.cpp files of `sources`, named by its hash, in the first of the folders
    that can be written to; compiled if it is not there. Raises UnavailableError."""
    if os.name == "nt":
        raise UnavailableError("it was not made for Windows", "use WSL")
    folder = _writable(folders)
    try:
        compilers = []
        for command, identity in _compilers(folder):
            key = _hash(*FLAGS, identity, *(text for file in _files(sources) for text in file))
            if file := _kept(folder, key):
                return file
            compilers.append((key, command))
        return _made(compilers, sources, folder, patience)
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise UnavailableError(what, "make room, or let it be written") from None


def _writable(folders: Sequence[Path]) -> Path:
    """The first of the folders that can be written to, by nobody but this user: what lies there is
    executed."""
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat(follow_symlinks=False)
            mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                with tempfile.TemporaryFile(dir=folder):
                    return folder
    names = " and ".join(map(str, folders))
    raise UnavailableError(f"{names} cannot be written, or by others, too", "set XDG_CACHE_HOME")


def _files(sources: Path) -> list[tuple[str, str]]:
    """Names and texts of what is compiled, in a fixed order."""
    files = sorted([*sources.glob("*.cpp"), *sources.glob("*.h")])
    return [(file.name, file.read_text(encoding="utf-8")) for file in files]


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _compilers(folder: Path) -> Iterator[tuple[Command, str]]:
    """The compilers of this machine, the one to take first: $CXX alone, or those on the PATH, and
    the one that pip brings; each with a hash of what it says of itself and of the processor. Some
    only ask to be installed: they are left out. Raises CompilerError where none is left.
    """
    try:
        asked = tuple(shlex.split(os.environ.get("CXX", "")))
    except ValueError as error:  # an open quotation
        raise CompilerError(f"CXX={os.environ['CXX']}: {error}", "unset CXX") from None
    on_path = [(path,) for name in ("c++", "g++", "clang++") if (path := shutil.which(name))]
    answer = False
    for command in [asked] if asked else [*on_path, *_brought()]:
        with suppress(subprocess.SubprocessError):
            identity = _identity(command, folder)
            answer = True
            yield command, identity
    if asked and not answer:
        raise CompilerError(f"CXX={shlex.join(asked)} does not work", "unset CXX")
    if not answer:
        raise CompilerError("no C++ compiler is here", "install g++, or ziglang by pip")


def _brought() -> list[Command]:
    """The compiler in the package ziglang, if that is installed: clang, with all that it needs."""
    found = importlib.util.find_spec("ziglang")
    places = found.submodule_search_locations if found else None
    return [(str(Path(place) / "zig"), "c++") for place in places or ()]


def _identity(command: Command, folder: Path) -> str:
    """A hash of the macros that the compiler defines for this processor: its own version and the
    instruction sets that it will use are among them, and no path. Kept until one of both changes.
    """
    found = [path for word in command if (path := shutil.which(word))]
    files = [f"{path} {(s := os.stat(path)).st_mtime_ns} {s.st_size}" for path in found]  # noqa: PTH116
    asked = _hash(*command, *files, *FLAGS, processor(), instruction_sets())
    note = folder / f"compiler-{asked}.txt"
    with suppress(OSError):
        if len(text := note.read_text(encoding="ascii")) == 64:
            note.touch()
            return text
    macros = _run([*command, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull], folder, 60)
    identity = _hash(macros, *command[1:])
    with tempfile.TemporaryDirectory(dir=folder, prefix="part-") as part:
        written = Path(part) / "identity"
        written.write_text(identity, encoding="ascii")
        written.replace(note)
    return identity


def _kept(folder: Path, key: str) -> Path | None:
    """The library of that hash, if it is in the folder and whole: its name ends with the SHA-256 of
    its content."""
    for file in folder.glob(f"{key}-*.so"):
        with suppress(OSError):  # removed meanwhile
            if hashlib.sha256(file.read_bytes()).hexdigest() == file.stem.partition("-")[2]:
                file.touch()
                return file
            file.unlink()
    return None


def _made(
    compilers: Sequence[tuple[str, Command]], sources: Path, folder: Path, patience: float
) -> Path:
    """Compile with the first compiler that can, unless another process has done so meanwhile;
    `compilers` are each with the hash that its library will have."""
    failures = []
    try:
        with FileLock(folder / "lock", timeout=2 * patience):
            for key, command in compilers:
                try:
                    return _kept(folder, key) or _compile(command, sources, folder, key, patience)
                except CompilerError as error:
                    failures.append(error)
    except Timeout:
        raise UnavailableError(f"another process holds {folder / 'lock'}", "end it") from None
    raise failures[0]


def _compile(command: Command, sources: Path, folder: Path, key: str, patience: float) -> Path:
    log.info(
        "The engine is compiled for this processor, once: that takes seconds, or a minute with the "
        "compiler that pip brings"
    )
    _remove_unused(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="part-") as part:
        made = Path(part) / "library.so"
        files = sorted(map(str, sources.glob("*.cpp")))
        try:
            did = f"{command[0]} says"
            _run([*command, *FLAGS, "-o", str(made), *files], folder, patience)
            did = f"what {command[0]} made does not work"
            # In a process of its own: instructions that the processor lacks would end this one.
            _run([sys.executable, "-I", "-c", CHECK, str(made)], folder, 60)
        except subprocess.TimeoutExpired as error:
            why = f"{command[0]} takes more than {error.timeout:.0f} s"
            raise CompilerError(why, "set CXX to another compiler") from None
        except subprocess.SubprocessError as error:
            why = f"{did}: {_complaint(error)}"
            raise CompilerError(why, "set CXX to another compiler, such as g++") from None
        content = hashlib.sha256(made.read_bytes()).hexdigest()
        return made.replace(folder / f"{key}-{content}.so")


def _run(words: Sequence[str], folder: Path, seconds: float) -> str:
    """What a program says; raises subprocess.SubprocessError where it fails."""
    own = {"ZIG_GLOBAL_CACHE_DIR": f"{folder / 'zig'}", "ZIG_LOCAL_CACHE_DIR": f"{folder / 'zig'}"}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=seconds,
            text=True, errors="replace", env=os.environ | own,
        )  # fmt: skip
    except OSError as error:
        raise subprocess.SubprocessError(f"{words[0]}: {error.strerror}") from error
    return done.stdout


def _complaint(error: subprocess.SubprocessError) -> str:
    """What a program that failed said of it, in short."""
    said = str(getattr(error, "stderr", "") or "").strip().splitlines()
    if not said and isinstance(error, subprocess.CalledProcessError):
        code = error.returncode
        said = [f"exit code {code}" if code > 0 else f"it was ended by signal {-code}"]
    said = said or [str(error)]
    return next((line for line in said if "error" in line), said[-1]).strip()[:200]


def _remove_unused(folder: Path) -> None:
    for pattern in ("*.so", "compiler-*.txt", "part-*"):
        for old in folder.glob(pattern):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > UNUSED:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()


def main() -> int:
    """Compile ahead; returns 0, 2 where that failed, or 3 where ziglang may do it."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        loaded()
    except UnavailableError as error:
        print(f"mnist-exp: {error}", file=sys.stderr)
        other = isinstance(error, CompilerError) and not _brought() and not os.environ.get("CXX")
        return 3 if other else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
