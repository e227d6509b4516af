"""What docs/recipe.md and docs/optimizer.md show of each field of a recipe is tried out as a run
would try it."""

import re
from collections.abc import Iterator

import pytest
from short_runs import carry_out, short
from written import HEAD, NUMBER

from mnist_exp import ROOT
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Recipe
from mnist_exp.runs.plan import settle

PAGES = [ROOT / "docs" / name for name in ("recipe.md", "optimizer.md")]
DOCSTRING, _, _ = HEAD.partition("import ")
NETWORK = HEAD[HEAD.index("class Base") :]
ALWAYS = """from functools import partial

from torch import nn
from torch.optim import SGD
"""
ANYWAY = {
    "network": "Base", "optimizer": "partial(SGD, lr=0.01)", "batch_size": "64", "epochs": "2",
}  # fmt: skip
IN_THE_RECORDS = {
    "loss", "augment", "preprocess", "optimizer", "parameter_groups", "schedule", "batch_schedule",
    "gradient_clip_norm", "accumulate_batches", "autocast", "averaging", "views", "teacher",
    "metrics", "step",
}  # fmt: skip


def examples() -> Iterator[tuple[str, str]]:
    """Each example with the imports that its page says it needs, and the first field it gives."""
    for page in PAGES:
        imports, *blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.S | re.M)
        for block in blocks:
            given = re.findall(r"^ {4}(\w+)=|\(\.\.\., (\w+)=", block, re.M)
            name = next((one or other for one, other in given), "step")
            yield name, f"{imports}\n\n{block}"


EXAMPLES = list(examples())


def entry_of(example: str) -> Entry:
    """The example as the file of an iteration, with what `...` stands for."""
    given = set(re.findall(r"\b(\w+)=", example[example.index("RECIPE") :]))
    rest = ", ".join(f"{name}={text}" for name, text in ANYWAY.items() if name not in given)
    filled = re.sub(r"\.\.\.(?=[,)])", rest, example)
    imports, _, body = filled.partition("\n\n\n")
    return entries.parse(f"{DOCSTRING}{ALWAYS}{imports}\n\n\n{NETWORK}{body}", NUMBER)


@pytest.mark.usefixtures("store", "few_digits")
@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_trains_and_is_recorded(name: str, example: str) -> None:
    if "teacher=14" in example:
        carry_out(short(14))
    split = "validation" if "partial(ReduceLROnPlateau" in example else "test"
    plan = settle(NUMBER, entry=entry_of(example), split=split)
    assert plan.findings.not_exact == ""
    assert plan.findings.cautions == ()
    assert plan.settings()[name] not in ("none", "cross_entropy", 1)


def test_each_field_has_an_example() -> None:
    fields = set(Recipe.__dataclass_fields__) - ANYWAY.keys() | {"optimizer", "step"}
    assert fields == IN_THE_RECORDS
    shown = "".join(example for _, example in EXAMPLES)
    assert [name for name in fields if f"{name}=" not in shown and name != "step"] == []
    assert "def step(" in shown


@pytest.mark.usefixtures("store")
def test_a_schedule_that_chooses_is_refused_on_the_test_split() -> None:
    (plateau,) = [example for _, example in EXAMPLES if "partial(ReduceLROnPlateau" in example]
    with pytest.raises(ExpectedError, match="SPLIT=validation trains with it"):
        settle(NUMBER, entry=entry_of(plateau))
