"""What of the checkout is the project's own. Beside it lies what a user has made: iterations that
are half written, environments, notes, data."""

import re
import subprocess
from functools import cache
from pathlib import Path

from mnist_exp import ROOT


@cache
def files() -> list[Path]:
    """The files of the last commit that are there, relative to the checkout; of an unpacked
    archive, which has no commits, those of its folders that are not hidden."""
    git = ["git", "-C", str(ROOT), "ls-tree", "-r", "-z", "--name-only", "HEAD"]
    if (ROOT / ".git").exists():
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
        return [Path(name) for name in listed if name and (ROOT / name).is_file()]
    names = (file.relative_to(ROOT) for file in ROOT.rglob("*") if file.is_file())
    return sorted(name for name in names if not any(part[0] == "." for part in name.parts))


def pages(folder: str) -> list[Path]:
    """The pages among them that lie in a folder, and below it."""
    within = (file for file in files() if file.suffix == ".md" and Path(folder) in file.parents)
    return sorted(ROOT / file for file in within)


def iterations() -> list[int]:
    """The numbers of the iterations among them, ascending."""
    names = (re.fullmatch(r"experiments/model_(\d+)\.py", file.as_posix()) for file in files())
    return sorted(int(name[1]) for name in names if name)


def text(name: str) -> str:
    """A file as it was last committed."""
    if not (ROOT / ".git").exists():
        return (ROOT / name).read_text()
    git = ["git", "-C", str(ROOT), "show", f"HEAD:{name}"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout
