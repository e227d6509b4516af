"""A recipe with other values, and overrides as text."""

import dataclasses
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from short_runs import carry_out
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.transforms import v2
from written import NUMBER, written

from mnist_exp import tracking
from mnist_exp.augment import RandomAffine, RandomRotation
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.values import parts_of
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.runs import checkpoint, reproduce, resume, run
from mnist_exp.runs.fields import Value
from mnist_exp.runs.overrides import as_words, differing, overridden, read, read_lists
from mnist_exp.runs.plan import settle

RECIPE = Recipe(
    network=partial(nn.Linear, 784, out_features=10),
    batch_size=64,
    epochs=15,
    optimizer=partial(SGD, lr=0.1, momentum=0.9),
    batch_schedule=partial(OneCycleLR, max_lr=0.1),
    augment=RandomAffine(degrees=8, scale=0.1, shift=0.04),
    averaging=ExponentialAverage(decay=0.998),
)

written_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inside: st.lists(inside) | st.lists(inside).map(tuple), max_leaves=5,
)  # fmt: skip
fields = st.from_regex(r"[a-z_]{1,9}(\.[a-z_]{1,9}){0,2}", fullmatch=True).filter(
    lambda name: (
        name != "learning_rate"
        and not name.startswith("step.")
        and all(map(str.isidentifier, name.split(".")))
    )
)


@given(st.dictionaries(fields, written_values, max_size=4))
def test_what_is_written_is_read_back_to_the_last_bit(overrides: dict[str, Value]) -> None:
    back = read(as_words(overrides))
    assert repr(sorted(back.items())) == repr(sorted(overrides.items()))


@given(st.text())
def test_any_text_is_read_or_refused_in_a_line(text: str) -> None:
    with suppress(ExpectedError):
        assert read(as_words(read(text))) == read(text)


def test_commas_and_spaces_within_brackets_and_quotes_part_nothing() -> None:
    text = "a.b=(0.9, 0.99),(0.8,0.9) c='x, y',\"it's=\" d=0.1,1e-1,0.2 learning_rate=1"
    assert read_lists(text) == {
        "a.b": [(0.9, 0.99), (0.8, 0.9)], "c": ["x, y", "it's="], "d": [0.1, 0.2],
        "optimizer.lr": [1],
    }  # fmt: skip


def test_each_kind_of_part_gets_its_value_and_stays_as_it_is() -> None:
    before = repr(RECIPE)
    new = overridden(
        RECIPE,
        read("learning_rate=0.05 optimizer.weight_decay=1e-4 batch_size=32 augment.degrees=9 "
             "averaging.every=5 network.in_features=3 batch_schedule=none"),
    )  # fmt: skip
    assert isinstance(new.optimizer, partial)
    assert new.optimizer.keywords == {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    assert new.augment == RandomAffine(degrees=9, scale=0.1, shift=0.04)
    assert new.averaging == ExponentialAverage(decay=0.998, every=5)
    assert new.network().weight.shape == (10, 3)
    assert (new.batch_size, new.batch_schedule, new.epochs) == (32, None, 15)
    assert repr(RECIPE) == before
    assert new.hyperparameters()["learning_rate"] == 0.05


def test_a_class_and_a_function_without_arguments_get_them() -> None:
    def optimizer(weights: object, *, rate: float = 0.1) -> SGD:
        return SGD(weights, lr=rate)

    for made, name in ((Adam, "lr"), (optimizer, "rate")):
        recipe = dataclasses.replace(RECIPE, optimizer=made)
        (weight,) = [nn.Parameter(nn.Linear(1, 1).weight)]
        made_so = overridden(recipe, {f"optimizer.{name}": 0.25}).optimizer([weight])
        assert made_so.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("several", [list, tuple, v2.Compose])
def test_one_of_several_parts_is_made_anew_and_not_only_labelled_anew(several: type) -> None:
    parts = [RandomRotation(degrees=7), v2.MixUp(alpha=0.2, num_classes=10)]
    recipe = dataclasses.replace(RECIPE, augment=several(parts))
    new = overridden(recipe, read("augment.MixUp.alpha=4 augment.RandomRotation.degrees=9"))
    rotation, mixup = parts_of(new.augment)
    assert rotation == RandomRotation(degrees=9)
    assert (mixup.num_classes, float(mixup._dist.concentration1)) == (10, 4.0)
    assert (parts[0].degrees, parts[1].alpha) == (7, 0.2)
    assert new.hyperparameters()["augment.MixUp.alpha"] == 4
    only = dataclasses.replace(RECIPE, augment=several(parts[:1]))
    (rotation,) = parts_of(overridden(only, {"augment.degrees": 9}).augment)
    assert rotation == RandomRotation(degrees=9)


def test_of_two_parts_of_a_class_neither_can_be_meant() -> None:
    recipe = dataclasses.replace(RECIPE, augment=[v2.RandomErasing(), v2.RandomErasing(), v2.MixUp(
        num_classes=10
    )])  # fmt: skip
    with pytest.raises(ExpectedError, match="augment has several RandomErasing, which"):
        overridden(recipe, read("augment.RandomErasing.p=1"))


def test_a_loss_is_made_anew_or_refused() -> None:
    class Squared(nn.CrossEntropyLoss):
        def __init__(self, power: float) -> None:
            super().__init__()
            self.power = power**2

    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    new = overridden(dataclasses.replace(RECIPE, loss=loss), read("loss.label_smoothing=0.2"))
    assert isinstance(new.loss, nn.CrossEntropyLoss)
    assert (new.loss.label_smoothing, loss.label_smoothing) == (0.2, 0.1)
    refused = dataclasses.replace(RECIPE, loss=Squared(3.0))
    with pytest.raises(ExpectedError, match="Squared does not keep what it is made with"):
        overridden(refused, read("loss.power=2.0"))


def test_what_the_recipe_has_anyway_is_no_override() -> None:
    own = "epochs=15 learning_rate=0.1 augment.degrees=8.0 optimizer.nesterov=False schedule=none"
    assert differing(RECIPE, read(own)) == {}
    assert as_words(differing(RECIPE, read("optimizer.momentum=1 epochs=2"))) == (
        "epochs=2 optimizer.momentum=1.0"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour=3", "colour: a recipe has no colour; this one has accumulate_batches, augment"),
        ("lr=0.1", "lr: did you mean optimizer.lr? a recipe has no lr; this one has"),
        ("optimiser.lr=0.1", "optimiser.lr: did you mean optimizer.lr? a recipe has no optimiser"),
        ("optimizer.lrr=1", "did you mean optimizer.lr? optimizer has no lrr; it has dampening"),
        ("learningrate=3", "did you mean learning_rate? a recipe has no learningrate"),
        ("degree=3", "did you mean augment.degrees? a recipe has no degree"),
        ("optimizer.params=1", "optimizer has no params"),
        ("optimizer.__init__=1", "optimizer has no __init__"),
        ("__class__=1", "a recipe has no __class__"),
        ("schedule.gamma=0.1", "schedule.gamma: the recipe has no schedule whose gamma"),
        ("loss.label_smoothing=0.1", "file, as in loss=nn.CrossEntropyLoss(label_smoothing=0.1)"),
        ("augment=none augment.degrees=3", "the recipe has no augment whose degrees"),
        ("batch_size.x=1", "batch_size is 64, which has no settings"),
        ("optimizer.lr='x'", "optimizer.lr='x': a number is needed, as in optimizer.lr=0.1"),
        ("optimizer.lr=none", "a number is needed"),
        ("batch_size=32.0", "a whole number is needed, as in batch_size=64"),
        ("batch_size=True", "a whole number is needed"),
        ("optimizer.nesterov=1", "True or False is needed, as in optimizer.nesterov=False"),
        ("autocast='half'", "'bfloat16' is needed, as in autocast='bfloat16'"),
        ("batch_schedule.anneal_strategy='x'", "'cos' or 'linear' is needed"),
        ("batch_size=0", "batch_size must be a whole number of at least 1"),
        ("averaging.decay=2", "averaging.decay=2: decay must be in 0..1"),
        ("optimizer=3", "optimizer=3: optimizer is code"),
        ("optimizer=none", "optimizer is code"),
        ("views=3", "views is code"),
        ("batch_size=32 batch_size=32", "batch_size is given twice: 32 and 32"),
        ("learning_rate=1 optimizer.lr=2", "optimizer.lr is given twice"),
        ("optimizer.lr=0.1,0.2", "optimizer.lr has 2 values, and a run takes one"),
        ("optimizer.lr", "optimizer.lr: NAME=value is needed, as in"),
        ("=3", "=3: NAME=value is needed"),
        ("a..b=3", "NAME=value is needed"),
        ("optimizer.lr=", "NAME=value is needed"),
        ("optimizer.lr=__import__('os')", "a number, True, False, none, a text in quotes"),
        ("optimizer.lr=1e999", "a number, True"),
        ("optimizer.lr=" + "(" * 9_999, "a number, True"),
        ("optimizer.lr=" + "-" * 9_999, "a number, True"),
        ("batch_size=" + "9" * 9_999, "a number, True"),
        ("optimizer.lr={}", "a number, True"),
    ],
)
def test_wrong_use_is_one_line_that_names_the_field(text: str, said: str) -> None:
    with pytest.raises(ExpectedError) as refused:
        overridden(RECIPE, read(text))
    assert said in str(refused.value)
    assert len(str(refused.value)) < 500


def test_the_rate_is_that_which_a_cycle_rises_to() -> None:
    whole = {"batch_schedule.max_lr": 0.3, "optimizer.lr": 0.3}
    assert differing(RECIPE, read("optimizer.lr=0.3")) == whole
    assert differing(RECIPE, whole) == whole
    assert overridden(RECIPE, whole).batch_schedule.keywords["max_lr"] == 0.3  # type: ignore[union-attr]
    two = read("optimizer.lr=0.3 batch_schedule.max_lr=0.2")
    assert differing(RECIPE, two) == two
    none = read("optimizer.lr=0.3 batch_schedule=none")
    assert differing(RECIPE, none) == none


def test_what_a_part_itself_refuses_names_the_override() -> None:
    with pytest.raises(ExpectedError, match=r"Invalid learning rate: -1\.0") as refused:
        settle(NUMBER, entry=written(), overrides=read("optimizer.lr=-1"))
    assert refused.value.__notes__ == ["it is overridden by optimizer.lr=-1.0"]


SET = "averaging.decay=0.1 batch_size=100 optimizer.lr=0.012345678901234567"


@pytest.mark.usefixtures("store", "few_digits")
def test_an_overridden_run_is_resumed_and_reproduced_with_its_overrides() -> None:
    entry = written(averaging="ExponentialAverage(decay=0.9)")
    plan = settle(NUMBER, entry=entry, overrides=read(SET))

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    whole = carry_out(plan)
    with pytest.raises(KeyboardInterrupt):
        run.carry_out(plan, on_batch=lambda _: None, on_epoch=stop)
    kept = tracking.runs().set_index("run_id")
    assert kept["overrides"].tolist() == [SET, SET]
    assert kept["batch_size"].tolist() == [100, 100]
    (stopped,) = set(kept.index) - {whole.run_id}
    request = checkpoint.checkpoint_of(stopped, resume.checkpoints()).load()["request"]
    again = settle(**request | {"entry": entry})
    assert again.overrides == plan.overrides
    gone_on = run.carry_out(
        dataclasses.replace(again, run_id=stopped), on_batch=lambda _: None,
        on_epoch=lambda _: None,
    )  # fmt: skip
    assert gone_on.accuracy == whole.accuracy
    pairs = list(reproduce.repeat(reproduce.prepare(whole.run_id)))
    assert [pair.identical for pair in pairs] == [True, True]
    other = settle(NUMBER, entry=entry, overrides=read(SET.replace("0.1", "0.2")))
    assert resume.unfinished(other) is None
