"""Where the code stands in git: real repositories, and git itself, which applies what is kept."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_exp.runs import checkout

UNKNOWN = {"git_commit": "unknown", "git_dirty": "unknown"}
BINARY = bytes(range(256)) * 20


def git(folder: Path, *arguments: str, text: str = "") -> str:
    """What git itself says, with nothing set but who commits."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    names = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_PAGER": "cat"}
    for person in ("AUTHOR", "COMMITTER"):
        names |= {f"GIT_{person}_NAME": "t", f"GIT_{person}_EMAIL": "t@example.org"}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(
        command, env=environment | names, input=text.encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(errors="replace").strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which is taken for the checkout."""
    root = tmp_path / 'a checkout: "of" ours'
    (root / "experiments").mkdir(parents=True)
    (root / "experiments" / "model_1.py").write_text("x = 1\n\ny = 2 \n" + "z = 3\n" * 30)
    (root / "latin.py").write_bytes(b"# coding: latin-1\nname = '\xe9'\n")
    (root / "picture.png").write_bytes(BINARY)
    (root / "gone.py").write_text("gone = 1\n")
    (root / "stays.py").write_text("stays = 1\n")
    (root / ".gitignore").write_text("/data/\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    monkeypatch.setattr(checkout, "ROOT", root)
    return root


def change(root: Path) -> None:
    """Of every kind, one."""
    file = root / "experiments" / "model_1.py"
    file.write_text(file.read_text().replace("x = 1", "x = 5") + "\t\r\nno newline at the end")
    (root / "picture.png").write_bytes(BINARY[::-1])
    (root / "gone.py").rename(root / "moved.py")
    (root / "stays.py").chmod(0o755)
    (root / "experiments" / "blocks").mkdir()
    (root / "experiments" / "blocks" / "__init__.py").touch()
    (root / "experiments" / "blocks" / "nets é.py").write_text("# é\ndiff --git a/x b/x\n")
    (root / "*.py").write_text("n = 1\n")
    (root / "new.bin").write_bytes(BINARY)
    (root / "link").symlink_to("nowhere")
    (root / "data").mkdir()
    (root / "data" / "ignored.py").touch()


def tree(folder: Path) -> dict[str, tuple[str, bytes]]:
    """All files that git does not ignore: kind, whether they can be executed, and content."""
    found = {}
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if file.is_symlink():
            found[name] = ("link", os.fsencode(file.readlink()))
        elif file.is_file() and not name.startswith((".git/", "data/")):
            runs = bool(file.stat().st_mode & stat.S_IXUSR)
            found[name] = ("runs" if runs else "file", file.read_bytes())
    return found


def applied(root: Path, diff: str, clone: Path) -> dict[str, tuple[str, bytes]]:
    """The files of a clean clone to which git has applied a kept diff."""
    git(root.parent, "clone", "-q", str(root), str(clone))
    git(clone, "apply", "-", text=diff)
    return tree(clone)


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What git keeps of a repository, with the times at which it was written."""
    files = [file for file in (folder / ".git").rglob("*") if file.is_file()]
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_git_takes_the_kept_diff(root: Path, tmp_path: Path) -> None:
    assert checkout.git_state() == (
        {"git_commit": git(root, "rev-parse", "HEAD"), "git_dirty": "false"}, ""
    )  # fmt: skip
    change(root)
    before = everything(root)
    tags, diff = checkout.git_state()
    assert everything(root) == before
    assert tags == {"git_commit": git(root, "rev-parse", "HEAD"), "git_dirty": "true"}
    assert diff.startswith(" M experiments/model_1.py\n")
    assert "?? experiments/blocks/nets é.py\n" in diff
    assert "+x = 5\n" in diff
    assert "ignored" not in diff
    assert applied(root, diff, tmp_path / "clone") == tree(root)


def test_text_of_another_encoding_is_kept_to_the_byte(root: Path, tmp_path: Path) -> None:
    change(root)
    (root / "latin.py").write_bytes(b"# coding: latin-1\nname = '\xe8'\n")
    (root / ".gitattributes").write_text("*.py diff=python\n")
    git(root, "add", ".gitattributes")
    git(root, "commit", "-qm", "second")
    (root / "experiments" / "late.py").write_bytes(b"\xff\xfe")
    diff = checkout.git_state()[1]
    diff.encode()
    assert applied(root, diff, tmp_path / "clone") == tree(root)


SETTINGS = {
    "diff.external": "false", "color.ui": "always", "color.diff": "always", "diff.noprefix": "true",
    "diff.mnemonicPrefix": "true", "diff.context": "0", "diff.renames": "copies",
    "diff.algorithm": "patience", "diff.orderFile": "order", "diff.relative": "true",
    "diff.wsErrorHighlight": "all", "diff.suppressBlankEmpty": "true", "diff.submodule": "log",
    "diff.interHunkContext": "9", "core.quotePath": "false", "core.autocrlf": "input",
    "core.safecrlf": "true", "core.pager": "false", "core.abbrev": "4", "status.short": "true",
    "status.branch": "true", "status.relativePaths": "true", "status.showUntrackedFiles": "no",
    "core.fsmonitor": "touch ran; false", "core.hooksPath": "hooks", "core.splitIndex": "true",
    "core.excludesFile": "ignored", "core.attributesFile": "attributes",
    "core.untrackedCache": "true",
    "diff.driver.command": "touch ran", "diff.driver.textconv": "touch ran",
    "diff.ignoreSubmodules": "all", "index.sparse": "true", "core.bigFileThreshold": "10",
}  # fmt: skip


def set_in_repository(root: Path, tmp_path: Path, _: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        path = value if name not in FILES else str(tmp_path / value)
        git(root, "config", name, path)


FILES = ("diff.orderFile", "core.excludesFile", "core.attributesFile", "core.hooksPath")


def set_by_user(_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / ".config" / "git").mkdir(parents=True)
    for name, value in SETTINGS.items():
        path = value if name not in FILES else str(tmp_path / value)
        git(tmp_path, "config", "--file", str(home / ".gitconfig"), name, path)
    shutil.copy(tmp_path / "ignored", home / ".config" / "git" / "ignore")
    shutil.copy(tmp_path / "attributes", home / ".config" / "git" / "attributes")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def set_by_variables(_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(SETTINGS)))
    for place, (name, value) in enumerate(SETTINGS.items()):
        path = value if name not in FILES else str(tmp_path / value)
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{place}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{place}", path)
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    git(other, "commit", "-qm", "theirs", "--allow-empty")
    for name, value in {
        "GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_PREFIX": "experiments/",
        "GIT_INDEX_FILE": str(other / ".git" / "index"), "GIT_EXTERNAL_DIFF": "false",
        "GIT_OBJECT_DIRECTORY": str(other), "GIT_NAMESPACE": "theirs", "GIT_DIFF_OPTS": "-u0",
        "GIT_PAGER": "false", "GIT_CEILING_DIRECTORIES": str(tmp_path), "GIT_TRACE": "1",
        "GIT_LITERAL_PATHSPECS": "1", "GIT_EXEC_PATH": str(other), "GIT_ATTR_SOURCE": "HEAD",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("hostile", [set_in_repository, set_by_user, set_by_variables])
def test_settings_of_others_change_nothing(
    hostile: Callable[[Path, Path, pytest.MonkeyPatch], None],
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "ignored").write_text("*.py\n*.bin\n")
    (tmp_path / "attributes").write_text("*.py diff=driver -text\n*.png diff=driver\n")
    (tmp_path / "order").write_text("*.png\n")
    (tmp_path / "hooks").mkdir()
    hook = tmp_path / "hooks" / "post-index-change"
    hook.write_text("#!/bin/sh\ntouch ran\n")
    hook.chmod(0o755)
    change(root)
    expected, clean = checkout.git_state(), tree(root)
    assert len(expected[1]) > 1000
    hostile(root, tmp_path, monkeypatch)
    before = everything(root)
    assert checkout.git_state() == expected
    assert everything(root) == before
    assert tree(root) == clean  # and no program left a file
    assert applied(root, expected[1], tmp_path / "clone") == clean


def test_what_is_hidden_from_git_is_seen(root: Path, tmp_path: Path) -> None:
    """A file whose changes git was told to pass over, and one that was staged and changed again."""
    change(root)
    git(root, "update-index", "--assume-unchanged", "experiments/model_1.py")
    git(root, "update-index", "--skip-worktree", "picture.png")
    git(root, "add", "new.bin")
    (root / "new.bin").write_bytes(BINARY[:999])
    git(root, "rm", "-q", "--cached", "latin.py")
    diff = checkout.git_state()[1]
    assert applied(root, diff, tmp_path / "clone") == tree(root)


def test_a_repository_that_cannot_be_written_is_read(root: Path) -> None:
    (root / ".git" / "index.lock").touch()
    change(root)
    expected = checkout.git_state()
    folders = [path for path in (root / ".git").rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert checkout.git_state() == expected
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert expected[0]["git_dirty"] == "true"


def test_a_checkout_inside_another_repository_has_no_commit(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "private.py").write_text("secret = 1\n")
    monkeypatch.setattr(checkout, "ROOT", root / "experiments")
    assert checkout.git_state() == (UNKNOWN, "")
    assert checkout.changes() == {}


def test_no_commit_is_known_without_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(root / ".git")
    assert checkout.git_state() == (UNKNOWN, "")
    git(root, "init", "-q", ".")
    assert checkout.git_state() == (UNKNOWN, "")
    git(root, "config", "core.worktree", "/tmp")
    git(root, "commit", "-qm", "of another folder", "--allow-empty")
    assert checkout.git_state() == (UNKNOWN, "")
    monkeypatch.setenv("PATH", "/nowhere")
    assert checkout.git_state() == (UNKNOWN, "")


def test_a_work_tree_and_a_submodule_are_checkouts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(root, "worktree", "add", "-q", str(tmp_path / "tree"))
    outer = tmp_path / "outer"
    git(tmp_path, "init", "-q", str(outer))
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(root), "inner")
    for folder in (tmp_path / "tree", outer / "inner"):
        assert (folder / ".git").is_file()
        monkeypatch.setattr(checkout, "ROOT", folder)
        change(folder)
        tags, diff = checkout.git_state()
        assert tags["git_commit"] == git(root, "rev-parse", "HEAD")
        assert applied(root, diff, tmp_path / f"clone of {folder.name}") == {
            name: kept for name, kept in tree(folder).items() if name != ".git"
        }


def test_new_files_are_kept_as_far_as_there_is_room(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkout, "LARGEST", 3000)
    monkeypatch.setattr(checkout, "MOST", 6000)
    monkeypatch.setattr(checkout, "LISTED", 6)
    (root / "a.bin").write_bytes(b"a" * 2999)
    (root / "b.bin").write_bytes(b"b" * 2999)
    (root / "huge.py").write_bytes(b"#" * 3001)
    (root / "experiments" / "z.py").write_bytes(b"z = 1\n")
    (root / ".env").write_text("PASSWORD=secret\n")
    (root / "picture.png").write_bytes(b"p" * 6001)
    git(root, "init", "-q", "theirs")
    (root / "theirs" / "file").touch()
    diff = checkout.git_state()[1]
    head = diff.partition("\n\n")[0].splitlines()
    assert head == [
        "?? huge.py (left out: 3,001 bytes)",
        "?? .env (left out: hidden)",
        "?? b.bin (left out: too many new files)",
        " M picture.png (left out: 6,001 bytes)",
        "?? theirs/ (left out: a repository of its own)",
        "?? a.bin",
        "and 1 more",
    ]
    assert "secret" not in diff
    kept = applied(root, diff, tmp_path / "clone")
    assert {"a.bin", "experiments/z.py"} <= set(kept)
    assert not {"b.bin", "huge.py", ".env"} & set(kept)
    assert kept["picture.png"][1] == BINARY


def test_the_number_of_new_files_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "LISTED", 10)
    for number in range(30):
        (root / f"digit {number:02}.png").write_bytes(b"x")
    (root / "late.py").write_text("x = 1\n")
    diff = checkout.git_state()[1]
    assert diff.count("diff --git") == 10
    assert "b/late.py" in diff
    assert diff.count("\n?? ") == 9
    assert "\nand 21 more\n" in diff


def test_what_the_files_of_the_checkout_cannot_be_is_no_change(root: Path) -> None:
    """As where they lie on Windows' file system, and folders for a while do not."""
    (root / "link").symlink_to("nowhere")
    git(root, "add", "link")
    git(root, "commit", "-qm", "a link")
    git(root, "config", "core.fileMode", "false")
    git(root, "config", "core.symlinks", "false")
    (root / "stays.py").chmod(0o755)
    (root / "link").unlink()
    (root / "link").write_text("nowhere")
    assert checkout.changes() == {}
    assert checkout.git_state()[0]["git_dirty"] == "false"


def test_a_file_that_goes_away_meanwhile_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("brief.py", "new.py"):
        (root / name).write_text("x = 1\n")
    look_at = Path.lstat

    def too_late(file: Path) -> os.stat_result:
        if file.name in ("brief.py", "stays.py"):
            file.unlink()
        return look_at(file)

    (root / "stays.py").write_text("stays = 2\n")
    monkeypatch.setattr(Path, "lstat", too_late)
    diff = checkout.git_state()[1]
    assert "?? brief.py (left out: it is gone)\n" in diff
    assert "-stays = 1\n" in diff
    assert "b/new.py" in diff


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")
def test_a_checkout_of_another_user_is_asked(root: Path) -> None:
    for file in (root, *root.rglob("*")):
        os.chown(file, 12345, 12345)
    assert checkout.git_state()[0]["git_dirty"] == "false"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    for name in ("closed.py", "latin.py"):
        (root / name).touch()
        (root / name).write_text("x = 1\n")
        (root / name).chmod(0)
    assert "?? closed.py (left out: it cannot be read)" in checkout.git_state()[1]
