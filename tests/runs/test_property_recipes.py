"""Iterations that hypothesis draws: resumed against uninterrupted, and what is recorded against
what the kept network gives when it is loaded."""

import dataclasses

import mlflow
import pytest
import torch
from drawn_recipes import DrawnRecipe, drawn_recipes
from hypothesis import HealthCheck, given, settings
from short_runs import carry_out
from written import NUMBER

from mnist_exp import tracking
from mnist_exp.data import Digits
from mnist_exp.runs import checkpoint, trial
from mnist_exp.runs.plan import settle
from mnist_exp.training.classifier import EVALUATION_BATCH
from mnist_exp.training.loop import EpochResult, Training

CPU = torch.device("cpu")
EPOCHS = 3
Mnist = tuple[Digits, Digits]

fast = settings(
    deadline=None, derandomize=True, max_examples=4, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def timeless(results: list[EpochResult]) -> list[EpochResult]:
    return [dataclasses.replace(result, seconds=0, ended=0) for result in results]


def check_resuming(drawn: DrawnRecipe, mnist: Mnist) -> None:
    """A trial says whether a resumed training goes on exactly, and where it says so, it does."""
    train, test = mnist[0][:300], mnist[1][:200]
    entry = drawn.entry
    findings = trial.try_out(entry, train, test, seed=5, device=CPU)
    assert findings.resumable
    of_average = trial.NOT_AVERAGED  # which only what no checkpoint holds can cause
    may_caution = drawn.fields["averaging"] != "None" and not drawn.is_carried
    assert set(findings.cautions) <= ({of_average} if may_caution else set())
    assert (findings.not_exact == "") == drawn.is_carried

    def begin() -> Training:
        recipe = dataclasses.replace(trial.recipe_from(entry, 5), epochs=EPOCHS)
        return Training(recipe, train, test, seed=5, device=CPU)

    whole, first, resumed = begin(), begin(), begin()
    list(whole.epochs())
    next(first.epochs())
    resumed.restore(checkpoint.unpack(checkpoint.pack(first.state())))
    list(resumed.epochs())
    if drawn.is_carried:
        assert timeless(resumed.results) == timeless(whole.results)
        assert torch.equal(resumed.output, whole.output)


def check_keeping(drawn: DrawnRecipe, digits: Digits) -> None:
    """The network that a run keeps has the parameters that it records, and misclassifies as many
    of the digits as the last epoch did."""
    outcome = carry_out(settle(NUMBER, epochs=1, entry=drawn.entry))
    kept = mlflow.pytorch.load_model(f"runs:/{outcome.run_id}/network")
    with torch.inference_mode():
        guesses = [kept(images).argmax(1) for images in digits.images.split(EVALUATION_BATCH)]
    wrong = int((torch.cat(guesses) != digits.labels).sum())
    assert tracking.history([outcome.run_id])["test_errors"].tolist() == [wrong]
    run = tracking.find_run(outcome.run_id).iloc[0]
    assert int(run["parameters"]) == sum(p.numel() for p in kept.parameters())
    assert run["resumes"] == "exactly" or not drawn.is_carried


@fast
@given(drawn_recipes)
def test_a_drawn_recipe_goes_on_as_its_trial_says(mnist: Mnist, drawn: DrawnRecipe) -> None:
    check_resuming(drawn, mnist)


@pytest.mark.slow
@settings(fast, max_examples=30)
@given(drawn_recipes)
def test_many_drawn_recipes_go_on_as_their_trials_say(mnist: Mnist, drawn: DrawnRecipe) -> None:
    check_resuming(drawn, mnist)


@pytest.mark.usefixtures("store", "few_digits")
@settings(fast, max_examples=1)
@given(drawn_recipes)
def test_the_kept_network_of_a_drawn_recipe_is_the_recorded_one(
    mnist: Mnist, drawn: DrawnRecipe
) -> None:
    check_keeping(drawn, mnist[1][:500])


@pytest.mark.slow
@pytest.mark.usefixtures("store", "few_digits")
@settings(fast, max_examples=15)
@given(drawn_recipes)
def test_the_kept_networks_of_many_drawn_recipes_are_the_recorded_ones(
    mnist: Mnist, drawn: DrawnRecipe
) -> None:
    check_keeping(drawn, mnist[1][:500])
