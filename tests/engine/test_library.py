"""The engine's library is compiled once, kept, and found again; where it cannot be had, that is
said in one line."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnist_exp.engine import library
from mnist_exp.engine.library import CompilerError, UnavailableError

TINY = (library.SOURCES / "check.cpp").read_text() + '\nextern "C" int answer() { return 41; }\n'


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with a source that compiles at once."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "tiny.cpp").write_text(TINY)
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def compiler(path: Path, script: str) -> str:
    """A program that a shell reads, in the place of a compiler."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def real() -> str:
    """The script of a compiler that writes down each compilation."""
    return f'case "$*" in *-dM*) ;; *) echo x >> "$0.calls";; esac\nexec {REAL} "$@"'


REAL = " ".join(next(library._compilers(library._writable(library.cache_folders())))[0])


def answer(file: Path) -> int:
    return int(ctypes.CDLL(str(file)).answer())


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def test_the_engine_itself_is_loaded_at_once_when_it_is_kept() -> None:
    library.loaded()
    start = time.process_time()
    library._once.cache_clear()
    library.loaded()
    assert time.process_time() - start < 0.1
    assert len(library.sha256()) == 64


def test_what_is_compiled_is_kept_until_something_changes(
    sources: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = compiler(tmp_path / "bin" / "c++", real())
    monkeypatch.setenv("CXX", counted)
    first = library.compiled(sources, [kept])
    assert library.compiled(sources, [kept]) == first
    assert answer(first) == 41
    (sources / "tiny.cpp").write_text(TINY.replace("41", "42"))
    second = library.compiled(sources, [kept])
    (sources / "more.h").write_text("// a header, which sources may include")
    third = library.compiled(sources, [kept])
    monkeypatch.setenv("CXX", f"{counted} -DNDEBUG")
    library.compiled(sources, [kept])
    assert answer(second) == answer(third) == 42
    assert len({file.name.partition("-")[0] for file in libraries(kept)}) == 4
    assert Path(f"{counted}.calls").read_text() == "x\n" * 4


@pytest.mark.parametrize(("left", "added"), [(-100, b""), (0, b""), (-1, b"x")])
def test_a_damaged_file_is_compiled_anew(
    left: int, added: bytes, sources: Path, kept: Path
) -> None:
    file = library.compiled(sources, [kept])
    file.write_bytes(file.read_bytes()[:left] + added)
    for note in kept.glob("compiler-*.txt"):
        note.write_text("cut")
    assert answer(library.compiled(sources, [kept])) == 41
    assert len(libraries(kept)) == 1


def test_of_several_processes_at_once_one_compiles(
    sources: Path, kept: Path, tmp_path: Path
) -> None:
    slow = compiler(tmp_path / "bin" / "c++", f"sleep 0.2\n{real()}")
    script = (
        "import sys, pathlib\nfrom mnist_exp.engine import library\n"
        "print(library.compiled(pathlib.Path(sys.argv[1]), [pathlib.Path(sys.argv[2])]))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(sources), str(kept)], stdout=subprocess.PIPE,
            text=True, env=os.environ | {"CXX": slow},
        )
        for _ in range(3)
    ]  # fmt: skip
    printed = {process.communicate()[0].strip() for process in processes}
    assert printed == {str(file) for file in libraries(kept)}
    assert len(printed) == 1
    assert Path(f"{slow}.calls").read_text() == "x\n"
    assert not list(kept.glob("part-*"))


def test_where_the_cache_cannot_be_written_another_folder_serves(
    sources: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()  # no folder can be made below it, by whatever user
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    places = [file / "cache", open_to_all, tmp_path / "temporary"]
    assert library.compiled(sources, places).parent == tmp_path / "temporary"
    assert list(open_to_all.iterdir()) == []
    with pytest.raises(UnavailableError, match=r"cannot be written.*set XDG_CACHE_HOME"):
        library.compiled(sources, places[:2])


def test_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.cache_folders()[0] == tmp_path / "mnist-exp"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    (temporary,) = library.cache_folders()
    assert temporary.name == f"mnist-exp-{os.getuid()}"


def test_what_nobody_has_loaded_for_long_is_removed(sources: Path, kept: Path) -> None:
    first = library.compiled(sources, [kept])
    part = kept / "part-of-one-that-was-killed"
    part.mkdir()
    for old in (first, part):
        os.utime(old, (0, 0))
    (sources / "tiny.cpp").write_text(TINY + "// changed")
    second = library.compiled(sources, [kept])
    assert libraries(kept) == [second]
    assert not part.exists()


def test_without_a_compiler_the_one_that_pip_brings_is_taken(
    sources: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    stub = compiler(tmp_path / "bin" / "c++", "echo install the developer tools >&2; exit 1")
    path = f"PATH={os.environ['PATH']}"
    monkeypatch.setenv("PATH", str(Path(stub).parent))
    monkeypatch.setattr(library, "_brought", list)
    with pytest.raises(
        CompilerError, match=r"no C.. compiler is here; install g.., or ziglang by pip$"
    ):
        library.compiled(sources, [kept])
    monkeypatch.setattr(library, "_brought", lambda: [("/usr/bin/env", path, *REAL.split())])
    assert answer(library.compiled(sources, [kept])) == 41


def test_where_a_compiler_fails_the_next_is_taken(
    sources: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    lame = compiler(tmp_path / "bin" / "c++", real().replace(";; esac", "; exit 1;; esac"))
    Path(lame).with_name("g++").symlink_to(REAL)
    monkeypatch.setenv("PATH", f"{Path(lame).parent}:{os.environ['PATH']}")
    for _ in range(2):
        assert answer(library.compiled(sources, [kept])) == 41
    assert Path(f"{lame}.calls").read_text() == "x\n"  # it was not asked again


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('case "$*" in *-dM*) ;; *) echo "x.cpp:1: error: odd" >&2; exit 1;; esac',
         "says: x.cpp:1: error: odd; set CXX to another"),
        ('case "$*" in *-dM*) ;; *) exit 1;; esac', "says: exit code 1"),
        ('case "$*" in *-dM*) ;; *) exec sleep 60;; esac', "takes more than 1 s"),
        ("while [ $1 ]; do [ $1 = -o ] && echo garbage > $2; shift; done",
         "what .*c.. made does not work"),
        ("exit 1", "CXX=.*c.. does not work; unset CXX"),
    ],
    ids=["error", "silence", "hangs", "garbage", "no compiler"],
)  # fmt: skip
def test_a_broken_compiler(
    script: str, said: str, sources: Path, kept: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("CXX", compiler(tmp_path / "bin" / "c++", script))
    with pytest.raises(UnavailableError, match=said) as raised:
        library.compiled(sources, [kept], patience=1)
    assert str(raised.value).startswith("the engine cannot be compiled: ")
    assert len(str(raised.value).splitlines()) == 1
    assert libraries(kept) == []
    assert not list(kept.glob("part-*"))


def test_a_compiler_that_cannot_be_read(
    sources: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "'c++")
    with pytest.raises(CompilerError, match=r"CXX='c.*: No closing quotation; unset CXX"):
        library.compiled(sources, [kept])


def test_instructions_that_the_processor_lacks_end_another_process(
    sources: Path, kept: Path
) -> None:
    ill = TINY.replace("int i = 0;", "int i = 0; __builtin_trap(),")
    (sources / "tiny.cpp").write_text(ill)
    with pytest.raises(UnavailableError, match=r"does not work: it was ended by sig"):
        library.compiled(sources, [kept])
    assert libraries(kept) == []


def test_a_library_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "0-0.so"
    file.write_text("text")
    monkeypatch.setattr(library, "compiled", lambda *_: file)
    library._once.cache_clear()
    with pytest.raises(UnavailableError, match=r"does not load.*remove that file"):
        library.loaded()
