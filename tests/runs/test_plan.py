"""What is settled before a run begins."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from short_runs import carry_out
from written import NUMBER, PARAMETERS_OF_BASE, network, written

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.runs import check
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.training.classifier import count_parameters
from mnist_exp.training.loop import Training

DRAWN = network(
    "width = int(torch.randint(2, 64, ())) + np.random.randint(64) + random.randint(0, 63)\n"
    "self.first = nn.Conv2d(1, width, 1 + 2 * int(torch.randint(0, 4, ())))\n"
    "self.norm = nn.BatchNorm2d(width)\n"
    "self.last = nn.Conv2d(width, 10, 3)"
)


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


def drawn(seed: int) -> Plan:
    return settle(NUMBER, seed=seed, epochs=1, entry=written(DRAWN))


def test_a_network_that_draws_its_layers_is_that_of_the_seed() -> None:
    plan, again, other = drawn(1), drawn(1), drawn(2)
    assert plan.parameters == again.parameters == count_parameters(plan.network)
    assert all(map(torch.equal, plan.network.parameters(), again.network.parameters()))
    assert plan.parameters != other.parameters  # 1 in 10,000 pairs of seeds agree


@pytest.mark.usefixtures("few_digits")
def test_all_that_a_run_records_is_of_one_network(store: Path) -> None:
    plan = drawn(3)
    first = dict(plan.network.named_modules())["first"]
    outcome = carry_out(plan)
    (run,) = tracking.runs().to_dict("records")
    kept = MlflowClient().search_logged_models([run["experiment_id"]])[0]
    state = torch.export.load(
        f"{kept.artifact_location.removeprefix('file://')}/data/model.pt2"
    ).state_dict
    assert state["network.first.weight"].shape == first.weight.shape
    artifacts = store / "artifacts" / outcome.run_id / "artifacts"
    table = pd.read_csv(artifacts / "receptive_field.csv").set_index("layer")
    assert table.loc["first", "kernel"] == first.kernel_size[0]
    assert int(run["parameters"]) == plan.parameters == count_parameters(plan.network)
    layers = (artifacts / "layers.txt").read_text()
    assert f"Total params: {plan.parameters:,}" in layers
    assert f"[1, {first.out_channels}, " in layers


@pytest.mark.usefixtures("store", "few_digits")
def test_a_plan_is_carried_out_with_a_copy_of_its_network() -> None:
    plan = settle(NUMBER, epochs=1, entry=written())
    before = [p.clone() for p in plan.network.parameters()]
    one, two = carry_out(plan), carry_out(plan)
    assert all(map(torch.equal, before, plan.network.parameters()))
    assert one.accuracy == two.accuracy


SLOWED = {
    "hook": network("self.first.weight.register_hook(lambda gradient: 0.01 * gradient)"),
    "attribute": network("self.first.weight.slow = True"),
}
GROUPS = """lambda network: [
        {"params": [w], "lr": 1e-5 if getattr(w, "slow", False) else 0.05}
        for w in network.parameters()
    ]"""


@pytest.mark.parametrize("name", SLOWED)
@pytest.mark.usefixtures("store", "few_digits")
def test_a_run_trains_the_network_that_its_file_makes(
    name: str, mnist: tuple[Digits, Digits]
) -> None:
    """Also what is set on its weights, or listens to their gradients, which is on no copy of
    torch's."""
    averaging = "ExponentialAverage(decay=0.5)"
    entry = written(SLOWED[name], parameter_groups=GROUPS, averaging=averaging)
    carry_out(settle(NUMBER, entry=entry, epochs=1))
    recipe = check.recipe_from(entry, 1, {"epochs": 1})
    train, test = mnist[0][:500], mnist[1][:500]
    training = Training(recipe, train, test, seed=1, device=torch.device("cpu"))
    (result,) = training.epochs()
    run_id = tracking.runs()["run_id"].item()
    (epoch,) = tracking.history([run_id]).to_dict("records")
    assert epoch["test_loss"] == pytest.approx(result.evaluation.loss, rel=1e-4)


def test_a_lazy_network_has_its_shapes() -> None:
    lazy = network("self.first = nn.LazyConv2d(8, 3, stride=2)\nself.norm = nn.LazyBatchNorm2d()")
    plan = settle(NUMBER, entry=written(lazy))
    assert plan.parameters == PARAMETERS_OF_BASE
    assert plan.receptive_field.size == settle(NUMBER, entry=written()).receptive_field.size


def test_the_receptive_field_speaks_of_the_prepared_image() -> None:
    larger = (
        "@dataclass(frozen=True)\nclass Larger:\n    size: int\n\n"
        "    def __call__(self, images):\n"
        "        return F.interpolate(images, (self.size, self.size))\n\n\n"
    )
    plan = settle(NUMBER, entry=written(larger, preprocess="Larger(32)"))
    table = plan.receptive_field.table
    assert table is not None
    assert table["n_out"].tolist()[:3] == [32, 15, 13]  # (32 - 3) // 2 + 1, and 15 - 3 + 1
    assert plan.settings()["preprocess.size"] == "32"


@pytest.mark.parametrize(
    ("optimizer", "learning_rate"),
    [
        ("partial(SGD, lr=0.037)", "0.037"),
        ("lambda p: SGD(p, lr=0.037)", "0.037"),
        ("lambda p: SGD([{'params': [q]} for q in p], lr=0.5)", "0.5"),
        ("lambda p: SGD([{'params': [q], 'lr': 0.1 * q.dim()} for q in p], lr=1)", "0.4 0.1"),
        ("partial(Adam, lr=torch.tensor(0.25))", "0.25"),
        ("Adam", "0.001"),
    ],
)
def test_the_learning_rate_is_read_from_the_optimizer(optimizer: str, learning_rate: str) -> None:
    entry = written(optimizer=optimizer, schedule="partial(StepLR, step_size=1)")
    assert settle(NUMBER, entry=entry).settings()["learning_rate"] == learning_rate


def test_functions_are_recorded_by_their_code() -> None:
    def schedule(code: str) -> object:
        entry = written(schedule=f"partial(LambdaLR, lr_lambda={code})")
        return settle(NUMBER, entry=entry).settings()["schedule.lr_lambda"]

    assert schedule("lambda e: 0.9**e") == schedule("lambda e: 0.9 ** e")
    assert schedule("lambda e: 0.9**e") != schedule("lambda e: 0.8**e")
    assert "0x" not in str(schedule("lambda e: 0.9**e"))


def test_what_a_recipe_names_is_not_changed_by_its_trial() -> None:
    shared = "COUNT = []\nRATE = torch.tensor(0.5)\nONE = Base()\n\n\n"
    entry = written(
        shared, network="lambda: COUNT.append(1) or ONE", optimizer="partial(SGD, lr=RATE)",
        schedule="partial(StepLR, step_size=1)",
    )  # fmt: skip
    plan = settle(NUMBER, entry=entry)
    of_file = plan.recipe.network.__globals__  # type: ignore[attr-defined]
    assert of_file["COUNT"] == [1]
    assert of_file["RATE"] == 0.5
    assert of_file["ONE"] is plan.network
    assert int(of_file["ONE"].norm.num_batches_tracked) == 0


def test_a_plan_has_the_digits_of_its_split() -> None:
    plan = settle(3, split="validation")
    assert (len(plan.train), len(plan.held_out)) == (49_984, 10_016)  # of the first fold
    assert dataclasses.replace(plan, seed=2).train is plan.train
