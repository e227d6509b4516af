"""Candidates: recipes that were tried on the validation split, and are no iterations.

One file, `experiments/results/candidates.jsonl`, holds one a line. A candidate is known by the hash
of its code.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries, loading
from mnist_exp.notebook.code_hash import has_code
from mnist_exp.notebook.entries import EXPERIMENTS, Entry

FILE = EXPERIMENTS / "results" / "candidates.jsonl"
FEWEST_DIGITS = 7
"""Of a hash that is to name a candidate."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe that was tried, with all that is needed to train it again."""

    code_sha256: str
    """SHA-256 of its code, all 64 hexadecimal digits; see `code_hash.code_sha256`."""
    idea: str
    """What it was to show, as its runs say."""
    nearest: int
    """The iteration whose code is nearest."""
    source: str
    """Its file, as it was run."""
    helpers: dict[str, str] | None = None
    """The sources of the other files that it imports, by their paths from the notebook; None where
    it reads alone."""
    does_not_run: str | None = None
    """Why the package of today cannot run it, and at which commit it was run; None where it can."""

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"candidate {self.code_sha256[:FEWEST_DIGITS]}"

    @property
    def entry(self) -> Entry:
        """Its source as an iteration, of the number that it was tried under."""
        number = re.search(r"\bModel (\d+):", self.source)
        return entries.parse(
            self.source, int(number[1]) if number else 0, helpers=self.helpers or {}
        )


def read_candidates(file: Path = FILE) -> list[Candidate]:
    """All candidates of a file, each proved by the hash of its code.

    Raises ExpectedError for a file that is not there, or not as `write` makes it.
    """
    text = entries.read_text(file)
    candidates = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            candidate = Candidate(**json.loads(line))
            proved = has_code(candidate.source, candidate.code_sha256, candidate.helpers or {})
        except (TypeError, ValueError):
            proved = False
        if not proved:
            raise ExpectedError(
                f"{entries.shown_path(file)}, line {number}: this is no candidate with the hash of "
                "its code: restore the file from git"
            )
        candidates.append(candidate)
    return candidates


def write(candidates: Iterable[Candidate], file: Path) -> None:
    """Write candidates to a file, in the order of their hashes."""
    lines = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.code_sha256):
        fields = {key: value for key, value in vars(candidate).items() if value is not None}
        lines.append(json.dumps(fields) + "\n")
    file.write_text("".join(lines), encoding="utf-8")


def find(digits: str, file: Path = FILE) -> Candidate:
    """The one candidate whose hash begins with `digits`, after it has been run.

    Raises ExpectedError when there is none, or more than one, or it does not run any more.
    """
    candidates = [
        one for one in read_candidates(file) if one.code_sha256.startswith(digits.lower())
    ]
    if not candidates or len(digits) < FEWEST_DIGITS:
        raise ExpectedError(
            f"FROM={digits}: of no candidate with a hash that begins so (7 digits or more) is the "
            "source kept; experiments/results/candidates.md lists all that were tried"
        )
    if len(candidates) > 1:
        raise ExpectedError(f"FROM={digits}: {len(candidates)} candidates begin so: more digits")
    (candidate,) = candidates
    if candidate.does_not_run:
        raise ExpectedError(f"{candidate.name} does not run any more: {candidate.does_not_run}")
    loading.execute(candidate.source, Path(candidate.name), candidate.helpers or {})
    return candidate
