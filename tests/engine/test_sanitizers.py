"""The engine's C++ under the compiler's own checkers of memory, of undefined behaviour and of
threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_exp import ROOT
from mnist_exp.engine import library

pytestmark = pytest.mark.slow

SOURCES = sorted(library.SOURCES.glob("*.cpp"))
TESTS = ["test_compiled.py", "test_numbers.py", "test_images.py"]
RUN = """
import ctypes, sys
from mnist_exp.engine import library
loaded = ctypes.CDLL(sys.argv[1]), ""
library._once = lambda: loaded
import pytest
sys.exit(pytest.main(["-q", "-n0", "-s", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def compiled(folder: Path, sanitizer: str, *rest: str) -> Path:
    """What g++ makes with a sanitizer; the test is skipped where it has none."""
    if not shutil.which("g++"):
        pytest.skip("there is no g++")
    made = folder / "made"
    flags = [flag for flag in library.FLAGS if flag not in ("-O3", "-shared")]
    command = ["g++", *flags, "-O1", "-g", f"-fsanitize={sanitizer}", "-o", str(made), *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in done.stderr:
        pytest.skip(f"g++ has no -fsanitize={sanitizer} here")
    assert done.returncode == 0, done.stderr
    return made


def located(name: str) -> str:
    """Where a library of g++'s is."""
    words = ["g++", f"-print-file-name={name}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def ran(words: list[str], **variables: str) -> str:
    """What a program says, with its errors; it fails where a sanitizer finds anything."""
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-5000:]
    for word in ("runtime error", "Sanitizer"):
        assert word not in said, said[:5000]
    return said


def test_no_kernel_leaves_its_memory_or_does_what_is_not_defined(tmp_path: Path) -> None:
    own = ("-shared", "-fno-sanitize-recover=all", *map(str, SOURCES))
    made = compiled(tmp_path, "address,undefined", *own)
    preloaded = [located("libasan.so"), located("libstdc++.so.6")]  # the first asks for the second
    tests = [str(Path(__file__).parent / name) for name in TESTS]
    said = ran(
        [sys.executable, "-c", RUN, str(made), *tests],
        LD_PRELOAD=" ".join(preloaded), ASAN_OPTIONS="detect_leaks=0", OMP_NUM_THREADS="2",
    )  # fmt: skip
    assert " passed" in said


def test_threads_do_not_reach_into_each_others_work(tmp_path: Path) -> None:
    program = Path(__file__).parent / "pool_check.cpp"
    made = compiled(tmp_path, "thread", f"-I{library.SOURCES}", str(program))
    done = subprocess.run([str(made)], capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not run on this kernel")
    assert ran([str(made)]).strip() == "done"
