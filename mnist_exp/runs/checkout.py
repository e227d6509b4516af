"""Where the code of the checkout stands in git.

Git is asked about this checkout alone, and answers the same whatever a user, a hook or the
repository has set: a kept diff is to be read, and taken by `git apply`, anywhere. So the files are
looked at from a repository that is made for the question, which has the commit and the objects of
the checkout and nothing else of it, and in which git writes what it writes.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from mnist_exp import ROOT
from mnist_exp.common.words import printable

LARGEST = 2**20
"""Bytes of a new file that is kept."""
MOST = 10 * LARGEST
"""Bytes of all new files that are kept, and of a changed one."""
LISTED = 1000
"""New files that are kept, and lines before a diff."""

BOOLEAN = "--type=bool", "--default=true"

NEW = "??"
"""What git says before a file that it does not have."""
NOTHING = "/dev/null"  # on Windows, too

DIFF = (
    "diff", "--patch", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv",
    "--no-renames", "--no-relative", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3",
    "--inter-hunk-context=0", "--diff-algorithm=myers", "--submodule=short",
    "--ignore-submodules=dirty", f"-O{NOTHING}",
)  # fmt: skip


def git_state() -> tuple[dict[str, str], str]:
    """Where the code stands in git: its commit and whether anything is not committed, as tags; and
    what is not committed, as text that `git apply` takes.

    Both are unknown where the checkout is no repository of git, or lies in one of something else.
    """
    head = commit()
    if head is None:
        return {"git_commit": "unknown", "git_dirty": "unknown"}, ""
    try:
        with _look(head) as look:
            changed = look.changes()
            text = look.diff(changed) if changed else ""
    except subprocess.CalledProcessError as error:
        why = printable(error.stderr.decode(errors="replace").strip())
        return {
            "git_commit": head,
            "git_dirty": "unknown",
        }, f"git cannot tell what changed: {why}\n"
    return {"git_commit": head, "git_dirty": str(bool(changed)).lower()}, text


def commit() -> str | None:
    """The commit of the checkout, in full; None where it has none of its own."""
    try:
        top, head = os.fsdecode(_git("rev-parse", "--show-toplevel", "HEAD")).splitlines()
        return head if Path(top).samefile(ROOT) else None
    except (OSError, ValueError, subprocess.CalledProcessError):  # no git, or no checkout of it
        return None


def changes() -> dict[str, str]:
    """What is not committed: by path, git's two letters for it. Empty where there is no commit."""
    head = commit()
    if head is None:
        return {}
    with _look(head) as look:
        return look.changes()


class _Look:
    """A look at the files of the checkout from a repository whose HEAD is the commit of it."""

    def __init__(self, folder: Path, excluded: Path, abilities: Iterable[str]) -> None:
        self.attributes = folder / "info" / "attributes"
        self.attributes.parent.mkdir(exist_ok=True)
        self._environment = {"GIT_DIR": str(folder), "GIT_WORK_TREE": str(ROOT)}
        # A user has files of these, too, which no variable names.
        files = f"core.excludesFile={excluded}", f"core.attributesFile={NOTHING}"
        # A file is what its bytes are; on Windows git itself writes other ends of lines.
        ends = f"core.autocrlf={'input' if os.name == 'nt' else 'false'}"
        self._settings = [
            word for setting in (*files, ends, *abilities) for word in ("-c", setting)
        ]
        self._ask("read-tree", "HEAD")

    def changes(self) -> dict[str, str]:
        listed = self._ask(
            "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames",
            "--ignore-submodules=dirty",
        )  # fmt: skip
        lines = os.fsdecode(listed).split("\0")[:-1]
        return {line[3:]: line[:2] for line in lines}

    def diff(self, changed: Mapping[str, str]) -> str:
        """The changes as `git apply` takes them, after lines that say what they are, and which are
        left out."""
        left_out = dict(_left_out(changed))
        new = [path for path, code in changed.items() if code == NEW and path not in left_out]
        self._ask(
            "--literal-pathspecs", "add", "--intent-to-add", "--pathspec-from-file=-",
            "--pathspec-file-nul", text="\0".join(new),
        )  # fmt: skip
        known = [path for path in left_out if changed[path] != NEW]
        command = *DIFF, "HEAD", "--", ":/", *(f":(exclude,top,literal){path}" for path in known)
        try:
            text = self._ask(*command).decode()
        except UnicodeDecodeError:  # a text of another encoding: then all of them as bytes
            self.attributes.write_text("* -diff\n")
            text = self._ask(*command).decode()
        return "\n".join([*_listed(changed, left_out), "", text])

    def _ask(self, *arguments: str, text: str = "") -> bytes:
        return _git(*self._settings, *arguments, text=text, more=self._environment)


@contextmanager
def _look(head: str) -> Iterator[_Look]:
    told = _git(
        "rev-parse", "--git-path", "objects", "--git-path", "info/exclude", "--show-object-format"
    )
    objects, excluded, kind = os.fsdecode(told).splitlines()
    # What the file system of the checkout can do; that of the new repository may be another.
    abilities = [
        f"{name}={os.fsdecode(_git('config', '--local', *BOOLEAN, '--get', name)).strip()}"
        for name in ("core.fileMode", "core.symlinks")
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _git("init", "--quiet", "--bare", "--template=", f"--object-format={kind}", name)
        (folder / "HEAD").write_text(f"{head}\n")
        others = folder / "objects" / "info" / "alternates"
        others.parent.mkdir(exist_ok=True)
        others.write_bytes(os.fsencode(f"{ROOT / objects}\n"))
        yield _Look(folder, ROOT / excluded, abilities)


def _listed(changed: Mapping[str, str], left_out: Mapping[str, str]) -> list[str]:
    """A line for each change; first come those that the diff leaves out, with the reason."""
    paths = [*left_out, *(path for path in changed if path not in left_out)]
    lines = [
        f"{changed[path]} {printable(path)}"
        + (f" (left out: {left_out[path]})" if path in left_out else "")
        for path in paths[:LISTED]
    ]
    more = len(paths) - len(lines)
    return [*lines, f"and {more:,} more"] if more else lines


def _left_out(changed: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Which of the changes are not kept, and why."""
    size = count = 0
    # Code first: a data set that somebody put there takes no room from it.
    for path in sorted(changed, key=lambda path: (not path.endswith(".py"), path)):
        file, new = ROOT / path, changed[path] == NEW
        try:
            bytes_ = file.lstat().st_size
        except OSError:
            if new:  # it went away while this looked, and git would look for it in vain
                yield path, "it is gone"
            continue  # it was removed, which is a change
        if not (file.is_symlink() or os.access(file, os.R_OK)):
            yield path, "it cannot be read"
        elif new and path.endswith("/"):
            yield path, "a repository of its own"
        elif new and any(part.startswith(".") for part in Path(path).parts):
            yield path, "hidden"
        elif bytes_ > (LARGEST if new else MOST):
            yield path, f"{bytes_:,} bytes"
        elif new and (size + bytes_ > MOST or count == LISTED):
            yield path, "too many new files"
        elif new:
            size, count = size + bytes_, count + 1


def _git(*arguments: str, text: str = "", more: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """What git prints. Raises OSError where there is no git, CalledProcessError where it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {
        "GIT_CONFIG_GLOBAL": NOTHING, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
    } | dict(more)  # fmt: skip
    # Who runs this code trusts the checkout already, whoever owns its files, as in a container.
    command = ["git", "-C", str(ROOT), "--no-pager", "-c", "safe.directory=*", *arguments]
    done = subprocess.run(
        command, input=os.fsencode(text), capture_output=True, check=True, env=environment
    )
    return done.stdout
