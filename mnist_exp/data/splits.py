"""Which digits are held out: the test digits, or a fold of the training digits to choose by."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, cast, get_args

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import ranges

Split = Literal["test", "validation"]
Fold = Literal["1", "2", "3", "4", "5", "6", "last"]
"""What the validation split holds out of the training digits: one of six folds of whole writers, of
whom no digit is trained on (`writers.folds`); or the last 10,000 digits, of whose writers many are.
By those people chose before there were folds."""
LAST: Fold = "last"
OF_WRITERS: tuple[Fold, ...] = get_args(Fold)[:-1]
ALL = "all"
"""All folds of writers, in turn: cross-validation."""

IMAGES = {
    "1": 10_016, "2": 10_003, "3": 9_941, "4": 9_982, "5": 10_029, "6": 10_029, LAST: 10_000,
}  # fmt: skip
"""The digits of each fold."""
TEST_DIGITS = 10_000


def check_split(split: str) -> None:
    """Raise ExpectedError for a split that there is not."""
    if split not in get_args(Split):
        raise ExpectedError(f"SPLIT={split}: choose one of {', '.join(get_args(Split))}")


def asked_fold(split: str, fold: str | int | None) -> str | None:
    """What is held out on a split where `fold` is asked for: a fold, or ALL. By default it is the
    first; on the test split, which has no folds, None. Raises ExpectedError for any other."""
    check_split(split)
    if split == "test":
        if fold is not None:
            raise ExpectedError(
                f"FOLD={fold}: folds are of the training digits, and SPLIT={split} holds out none "
                "of them: SPLIT=validation does"
            )
        return None
    text = OF_WRITERS[0] if fold is None else str(fold)
    known = (*get_args(Fold), ALL)
    if text not in known:
        raise ExpectedError(f"FOLD={text}: choose one of {', '.join(known)}")
    return text


def one_fold(split: str, fold: str | int | None) -> Fold | None:
    """The same of what holds out one fold alone: ALL is refused, too."""
    text = asked_fold(split, fold)
    if text == ALL:
        raise ExpectedError(f"FOLD={ALL}: one fold is needed here, as in FOLD=1")
    return cast("Fold | None", text)


def each_fold(fold: str | None) -> tuple[Fold | None, ...]:
    """The folds, one by one, of what `asked_fold` gave."""
    return OF_WRITERS if fold == ALL else (cast("Fold | None", fold),)


def held_out_images(fold: Fold | None) -> int:
    """How many digits are held out: those of a fold, or else those of the test split."""
    return TEST_DIGITS if fold is None else IMAGES[fold]


def split_in_words(split: str, fold: str | None) -> str:
    """As in "test split" and "validation split, fold 3"."""
    return f"{split} split{fold_in_words(fold)}"


def fold_in_words(fold: str | None) -> str:
    """What ends words on a split: ", fold 3", ", all folds", or nothing where there is none."""
    return {None: "", ALL: ", all folds"}.get(fold, f", fold {fold}")


def split_in_short(split: str, fold: str | None) -> str:
    """As in "test" and "fold 3", for a column of a table."""
    return f"fold {fold}" if fold else split


def folds_named(folds: Collection[str]) -> str:
    """As in "fold 3", "folds 1-3 6" and "folds 1-6 last"."""
    numbers = [int(fold) for fold in set(folds) - {LAST}]
    words = f"{ranges(numbers)} {LAST if LAST in folds else ''}".strip()
    return f"fold{'' if words.isalnum() else 's'} {words}"


def split_as_set(split: str, fold: str | None) -> str:
    """What is typed for it, behind a blank: as in " SPLIT=validation FOLD=3"; nothing for the test
    split, and no fold for the first, which are the defaults."""
    if split == "test":
        return ""
    return f" SPLIT={split}" + ("" if fold in (None, OF_WRITERS[0]) else f" FOLD={fold}")
