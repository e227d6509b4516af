"""What is settled before a run begins, and refused."""

import dataclasses
from functools import partial

import pytest
from torch import Tensor, nn
from torch.optim import SGD

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import loading
from mnist_exp.runs.plan import settle
from mnist_exp.training.classifier import Classifier


def use(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Iteration 3 has these changes in its recipe."""
    iteration = loading.load_iteration(3)
    changed = dataclasses.replace(iteration.recipe, **changes)
    own = dataclasses.replace(iteration, recipe=changed)
    monkeypatch.setattr(loading, "load_iteration", lambda _: own)


def test_a_plan_for_what_is_not_there() -> None:
    with pytest.raises(ExpectedError, match="model_99"):
        settle(99)
    with pytest.raises(ExpectedError, match="DEVICE=quantum"):
        settle(6, device="quantum")


def test_a_plan_has_the_recipe_with_its_overrides_and_no_other() -> None:
    plan = settle(6, epochs=2)
    assert plan.recipe.epochs == 2
    assert plan.overrides == {"epochs": 2}
    assert plan.overridden == plan.tags()["overrides"] == "epochs=2"
    assert not hasattr(plan.entry, "recipe")


def test_the_epochs_of_the_recipe_are_no_override() -> None:
    plan = settle(6, epochs=15)
    assert plan.overrides == {}
    assert plan.tags()["overrides"] == "none"


def test_a_plan_knows_its_network() -> None:
    plan = settle(6)
    assert plan.parameters == 7_416
    assert plan.receptive_field.size == (28, 28)
    assert plan.receptive_field.table is not None
    assert plan.receptive_field.table["r_out"].tolist()[-1] == 28
    assert "conv4" in plan.layers
    assert "7,416" in plan.layers


def test_the_network_is_built_once_for_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = loading.load_iteration(3).recipe.network

    def network() -> nn.Module:
        built.append(1)
        return build()

    use(monkeypatch, network=network)
    settle(3)
    assert len(built) == 1


def broken(*_: object, **__: object) -> object:
    raise ZeroDivisionError("by hand")


@pytest.mark.parametrize(
    "part",
    ["network", "optimizer", "schedule", "batch_schedule", "augment", "preprocess", "views"],
)
def test_whatever_the_recipe_names_is_tried(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, **{part: broken})
    with pytest.raises(
        ExpectedError, match=r"^experiments/model_3\.py.*ZeroDivisionError: by hand"
    ):
        settle(3)


def test_what_comes_out_of_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        use(patch, views=lambda _: [])
        with pytest.raises(ExpectedError, match=r"^experiments/model_3\.py: RuntimeError"):
            settle(3)
    with monkeypatch.context() as patch:
        use(patch, views=lambda images: [images[:1]])
        with pytest.raises(ExpectedError, match=r"the network gives \(1, 10\), not \(2, 10\)"):
            settle(3)
    use(monkeypatch, optimizer=partial(SGD, lr=-1))
    with pytest.raises(ExpectedError, match=r"^experiments/model_3\.py: ValueError: Invalid learn"):
        settle(3)


def test_a_mistake_of_the_package_is_not_told_as_one_of_the_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistaken(_: Classifier, images: Tensor) -> Tensor:
        return images.no_such_method()

    monkeypatch.setattr(Classifier, "forward", mistaken)
    settle(3)  # does without it
