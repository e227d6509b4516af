"""Candidates: each published one by itself, and taken out as the beginning of an iteration."""

import dataclasses
import json
from pathlib import Path

import committed
import pytest

from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence.comparison import nearest
from mnist_exp.notebook import candidates, code_hash, entries, loading
from mnist_exp.notebook.candidates import Candidate
from mnist_exp.notebook.new import ANALYSIS, create
from mnist_exp.recipe import Recipe

PUBLISHED = candidates.read_candidates()
NEEDS_A_LOST_CLASS = "262faf1e0b"


@pytest.mark.parametrize("candidate", PUBLISHED, ids=lambda candidate: candidate.code_sha256[:7])
def test_a_published_candidate_runs_unless_it_says_why_not(candidate: Candidate) -> None:
    assert code_hash.code_sha256(candidate.source) == candidate.code_sha256
    if candidate.does_not_run:
        with pytest.raises(ExpectedError):
            loading.execute(candidate.source, Path(candidate.name))
    else:
        recipe = loading.execute(candidate.source, Path(candidate.name))
        assert isinstance(recipe, Recipe)


def test_one_published_candidate_does_not_run() -> None:
    (lost,) = [candidate for candidate in PUBLISHED if candidate.does_not_run]
    assert lost.code_sha256.startswith(NEEDS_A_LOST_CLASS)
    assert "63447c619b89403d26417e1e03809b8d9109d71e" in str(lost.does_not_run)


def test_each_names_the_iteration_whose_code_is_nearest() -> None:
    iterations = {number: entries.read_entry(number) for number in committed.iterations()}
    for candidate in PUBLISHED[::10]:
        assert candidate.nearest == nearest(candidate.entry, iterations), candidate.name


def test_the_nearest_has_the_fewest_changed_lines_and_is_the_last_such() -> None:
    source = '"""Model 9: x.\n\nTarget: a\nChange: a\nExpect: a\nAnalysis: a\n"""\n'

    def entry(code: str) -> entries.Entry:
        return entries.parse(source + code, 9)

    others = {1: entry("a = 1\nb = 2\n"), 2: entry("a = 1\nb = 3\n"), 3: entry("a = 5\nb = 3\n")}
    assert nearest(entry("a = 1\nb = 2\nc = 3\n"), others) == 1  # one line; three of 2
    assert nearest(entry("a = 1\nb = 4\n"), others) == 2  # two lines of 1, as of 2


def some(*sources: str) -> list[Candidate]:
    return [
        Candidate(code_sha256=code_hash.code_sha256(source), idea="some", nearest=4, source=source)
        for source in sources
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A notebook with the published candidates."""
    (tmp_path / "results").mkdir()
    candidates.write(PUBLISHED, tmp_path / "results" / "candidates.jsonl")
    return tmp_path


def test_they_are_one_a_line_in_the_order_of_their_hashes(folder: Path) -> None:
    file = folder / "results" / "candidates.jsonl"
    assert file.read_bytes() == candidates.FILE.read_bytes()
    hashes = [json.loads(line)["code_sha256"] for line in file.read_text().splitlines()]
    assert hashes == sorted(set(hashes))
    awkward = some("x = '\u2028 \x85 \"'\n")
    candidates.write(awkward, file)
    assert candidates.read_candidates(file) == awkward


def test_a_candidate_becomes_an_iteration(folder: Path) -> None:
    candidate = PUBLISHED[0]
    file = create(30, candidate.code_sha256[:7].upper(), folder)
    assert file == folder / "model_30.py"
    iteration = loading.load_iteration(30, folder)
    assert iteration.code_sha256 == candidate.code_sha256
    assert f"Analysis: {iteration.sections['Analysis']}\n" == ANALYSIS
    lines = file.read_text().splitlines()
    assert lines[0].startswith('"""Model 30: ')
    changed = [line for line in lines if line not in candidate.source.splitlines()]
    assert changed == [lines[0], ANALYSIS.strip()]


def sharing(blocks: str) -> Candidate:
    """A candidate that imports a helper, in a package of its own."""
    source = (
        entries.path(5).read_text().replace("from functools", "from .own import x\nfrom functools")
    )
    helpers = {"own/__init__.py": "from .blocks import x\n", "own/blocks.py": blocks}
    code = code_hash.code_sha256(source, helpers)
    return Candidate(code_sha256=code, idea="", nearest=5, source=source, helpers=helpers)


def test_a_candidate_brings_its_helpers(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    candidate = sharing("x = 1\n")
    file = tmp_path / "results" / "candidates.jsonl"
    candidates.write([candidate], file)
    assert candidates.read_candidates(file) == [candidate]
    assert candidate.entry.code_sha256 == candidate.code_sha256
    create(30, candidate.code_sha256, tmp_path)
    assert loading.load_iteration(30, tmp_path).code_sha256 == candidate.code_sha256
    shared = tmp_path / "own" / "blocks.py"
    shared.write_text("x = 1  # the same code\n")
    create(31, candidate.code_sha256, tmp_path)
    assert shared.read_text() == "x = 1  # the same code\n"
    assert create(32, 31, tmp_path).is_file()
    assert entries.read_entry(32, tmp_path).code_sha256 == candidate.code_sha256
    shared.write_text("x = 2\n")
    with pytest.raises(ExpectedError, match=r"the candidate imports own/blocks\.py, .* other code"):
        create(33, candidate.code_sha256, tmp_path)
    assert not (tmp_path / "model_33.py").exists()


def test_a_helper_of_a_candidate_is_a_part_of_its_code(tmp_path: Path) -> None:
    file = tmp_path / "candidates.jsonl"
    candidates.write([sharing("\n1 / 0\n")], file)
    with pytest.raises(
        ExpectedError, match=r"candidate \w{7}/own/blocks\.py, line 2: ZeroDivision"
    ):
        candidates.find(sharing("\n1 / 0\n").code_sha256, file)
    file.write_text(file.read_text().replace("1 / 0", "1 / 2"))
    with pytest.raises(ExpectedError, match=r"line 1: this is no candidate with the hash"):
        candidates.read_candidates(file)
    file.write_text(file.read_text().replace('"own/', '"../own/'))
    with pytest.raises(ExpectedError, match=r"line 1: this is no candidate with the hash"):
        candidates.read_candidates(file)


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("0000000", "of no candidate with a hash that begins so"),
        (PUBLISHED[0].code_sha256[:6], "7 digits or more"),
        (NEEDS_A_LOST_CLASS, "does not run any more: .* commit 63447c619b"),
    ],
)
def test_what_cannot_be_taken_out_leaves_nothing(digits: str, words: str, folder: Path) -> None:
    with pytest.raises(ExpectedError, match=words):
        create(30, digits, folder)
    assert not (folder / "model_30.py").exists()


def test_the_command_says_why_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "MODEL=9999", f"FROM={NEEDS_A_LOST_CLASS}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mnist-exp: candidate 262faf1 does not run any more: it needs a class")
    assert error.count("\n") == 1


def test_a_hash_that_is_not_unique_or_runs_no_more_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "candidates.jsonl"
    broken = some("from mnist_exp.recipe import Gone\n")[0]
    candidates.write([broken], file)
    with pytest.raises(ExpectedError, match=r"candidate \w{7}, line 1: ImportError.*Gone"):
        candidates.find(broken.code_sha256, file)
    twice = [broken, dataclasses.replace(broken, idea="another")]
    candidates.write(twice, file)
    with pytest.raises(ExpectedError, match="2 candidates begin so"):
        candidates.find(broken.code_sha256[:7], file)


@pytest.mark.parametrize(
    "line", ["", "[1]", "{}", "\u00ff", '{"code_sha256": 1, "idea": "", "nearest": 1, "source": 2}']
)
def test_a_damaged_file_is_one_line(line: str, tmp_path: Path) -> None:
    file = tmp_path / "candidates.jsonl"
    good = some("x = 1\n")
    candidates.write(good, file)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ExpectedError, match=r"candidates\.jsonl, line 2: this is no candidate"):
        candidates.read_candidates(file)
    file.write_text(file.read_text().partition("\n")[0].replace("x = 1", "x = 2"))
    with pytest.raises(ExpectedError, match=r"line 1: this is no candidate with the hash"):
        candidates.read_candidates(file)
