"""Every file of the lab notebook, and the facts that are published of the first six."""

import ast
import re
from collections import Counter

import committed
import pytest
import torch
from torch import nn

from mnist_exp import recipe
from mnist_exp.notebook import entries, loading
from mnist_exp.recipe import Target
from mnist_exp.training import classifier

PARAMETERS = {1: 6_379_786, 2: 7_272, 3: 7_448, 4: 7_448, 5: 7_448, 6: 7_416}
ALLOWED_IMPORTS = (
    "torch",
    "mnist_exp.recipe",
    "mnist_exp.augment",
    "mnist_exp.preprocess",
    "mnist_exp.views",
    "functools",
    "collections",
)


def imported(source: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names


@pytest.mark.parametrize("number", committed.iterations())
def test_an_iteration_loads_and_its_network_classifies(number: int) -> None:
    iteration = loading.load_iteration(number)
    assert all(iteration.sections.values())
    with torch.no_grad():
        output = iteration.recipe.network().eval()(torch.zeros(2, *recipe.PIXELS))
    assert output.shape == (2, 10)


@pytest.mark.parametrize("number", committed.iterations())
def test_an_iteration_reads_alone(number: int) -> None:
    for name in imported(loading.load_iteration(number).source):
        assert name in ALLOWED_IMPORTS or name.startswith("torch."), name


@pytest.mark.parametrize(("number", "parameters"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(number: int, parameters: int) -> None:
    assert (
        classifier.count_parameters(loading.load_iteration(number).recipe.network()) == parameters
    )


@pytest.mark.parametrize("number", committed.iterations())
def test_an_iteration_is_as_small_as_it_says(number: int) -> None:
    """What its Target asks for; where that names no number, what the target of all does."""
    iteration, target = loading.load_iteration(number), loading.load_target()
    assert iteration.recipe.epochs <= target.max_epochs
    said = re.search(r"fewer than ([\d,]+) parameters", iteration.sections["Target"])
    most = int(said[1].replace(",", "")) if said else target.parameters_below
    count = classifier.count_parameters(iteration.recipe.network())
    assert (count < most) == (number != 1)  # which only gets the set-up right


def test_smaller_targets_are_read_where_they_are_said() -> None:
    said = [number for number in committed.iterations()
            if "fewer than" in entries.read_entry(number).sections["Target"]]  # fmt: skip
    assert {12, 15, 17, 18, 19, 20, 21} <= set(said)


def test_model_12_uses_two_pairs_of_layers_several_times() -> None:
    network = loading.load_iteration(12).recipe.network()
    calls: Counter[str] = Counter()
    for name, layer in network.named_modules():
        layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
    network(torch.zeros(2, *recipe.PIXELS))
    used = {name: count for name, count in calls.items() if count > 1}
    assert used == {"depthwise2": 3, "pointwise2": 3, "depthwise6": 2, "pointwise6": 2}
    # conv1 9 x 20; pairs 9 x in + in x out: 20 to 20, 20 to 34, 34 to 34; normalisations: four of
    # 20, three of 34; to the digits 34 x 10
    pairs = (180 + 400) + (180 + 680) + (306 + 1156)
    assert classifier.count_parameters(network) == 180 + pairs + 4 * 40 + 3 * 68 + 340


@pytest.mark.parametrize("number", PARAMETERS)
def test_the_recipes_are_the_published_ones(number: int) -> None:
    expected: dict[str, object] = {
        "network": "Network",
        "batch_size": 128,
        "epochs": 15,
        "optimizer": "SGD",
        "learning_rate": 0.01,
        "optimizer.momentum": 0.9,
        "schedule": "none",
        "batch_schedule": "none",
        "augment": "none",
        "preprocess": "none",
        "averaging": "none",
        "views": "none",
        "loss": "cross_entropy",
        "accumulate_batches": 1,
    }
    later = ("autocast", "gradient_clip_norm", "metrics", "parameter_groups", "step", "teacher")
    expected |= dict.fromkeys(later, "none")
    if number >= 5:
        expected |= {"augment": "RandomRotation", "augment.degrees": 7}
    if number == 6:
        expected |= {"schedule": "StepLR", "schedule.step_size": 6, "schedule.gamma": 0.1}
    assert loading.load_iteration(number).recipe.hyperparameters() == expected


def layers(number: int, kind: type[nn.Module]) -> list[str]:
    network = loading.load_iteration(number).recipe.network()
    return [name for name, layer in network.named_modules() if isinstance(layer, kind)]


def test_normalisation_and_dropout_stand_where_they_should() -> None:
    assert not layers(2, nn.BatchNorm2d)
    assert layers(3, nn.BatchNorm2d) == [f"norm{i}" for i in range(1, 8)]
    assert not layers(3, nn.Dropout)
    assert layers(4, nn.Dropout)
    assert layers(6, nn.BatchNorm2d) == [f"norm{i}" for i in (2, 4, 5, 6, 7)]


@pytest.mark.parametrize(("number", "drops"), [(4, 7), (5, 7), (6, 5)])
def test_dropout_follows_each_activation_block(number: int, drops: int) -> None:
    network = loading.load_iteration(number).recipe.network().train()
    calls: list[float] = []
    network.dropout.register_forward_hook(lambda layer, *_: calls.append(layer.p))
    network(torch.zeros(2, *recipe.PIXELS))
    assert calls == [0.1] * drops


def test_model_6_normalises_after_the_activation() -> None:
    network = loading.load_iteration(6).recipe.network().eval()
    seen = {}
    network.norm2.register_forward_pre_hook(lambda _, x: seen.update(norm2=x[0].detach()))
    network.maxpool.register_forward_pre_hook(lambda _, x: seen.update(conv3=x[0].detach()))
    network(torch.randn(4, *recipe.PIXELS))
    assert seen["norm2"].min() == 0  # after the ReLU
    assert seen["conv3"].min() < 0  # conv3 has none


def test_the_target() -> None:
    assert loading.load_target() == Target(
        test_accuracy=0.994, last_epochs=5, max_epochs=15, parameters_below=8_000
    )
