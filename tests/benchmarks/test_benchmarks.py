"""The benchmarks measure what they say."""

from pathlib import Path

import pandas as pd
import pytest
import sleeping
import torch
from scipy import stats
from torch import nn

from benchmarks import before, measure, section, step, whole_runs
from benchmarks.section import Section
from benchmarks.stock import Stock
from mnist_exp import data
from mnist_exp.data import Digits
from mnist_exp.notebook import loading
from mnist_exp.training.classifier import example_input, network_input


def test_contenders_take_turns_in_processes_of_their_own() -> None:
    seconds = measure.in_turns(
        {
            "slow": measure.Contender(sleeping.prepare, (0.02,), sleeping.sleep),
            "fast": measure.Contender(sleeping.prepare, (0.01,), sleeping.sleep),
        },
        rounds=3,
    )
    assert seconds == {"slow": [0.02] * 3, "fast": [0.01] * 3}
    assert sleeping.slept == 0.0
    assert measure.ratio(seconds["slow"], seconds["fast"]) == "2.00 (2.00 to 2.00)"


def test_a_ratio_is_the_median_of_pairs() -> None:
    assert measure.ratio([2, 9, 8], [1, 3, 2]) == "3.00 (2.00 to 4.00)"


def test_a_section_takes_the_place_of_its_predecessor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(section, "FILE", tmp_path / "RESULTS.md")
    table = pd.DataFrame({"a": ["1"]})
    section.write(Section("First", "Old.", [table], []))
    section.write(Section("Second", "Kept.", [], ["1 of 2"]))
    section.write(Section("First", "New.", [table]))
    text = section.FILE.read_text()
    assert text.count("## First") == text.count("## Second") == 1
    assert "New." in text
    assert "Old." not in text
    assert "Kept.\n\n- Missed: 1 of 2." in text
    assert "Goals that were missed:\n\n- Second: 1 of 2.\n\n## Second" in text
    assert "Every goal" not in text


def test_stock_has_the_same_images_and_labels(mnist: tuple[Digits, Digits]) -> None:
    pipeline = Stock(loading.load_iteration(3).recipe, workers=0)
    images, labels = next(iter(pipeline.test))
    assert torch.equal(labels, mnist[1].labels[:1000])
    assert torch.allclose(images, data.normalise(mnist[1].images[:1000]), atol=1e-6)
    assert len(pipeline.train.dataset) == 60_000  # type: ignore[arg-type]


def test_stock_augments_as_we_do(mnist: tuple[Digits, Digits]) -> None:
    """Each pixel's mean over many rotations of one digit."""
    own = loading.load_iteration(6).recipe
    pipeline = Stock(own, workers=0)
    stock = torch.stack([pipeline.train.dataset[0][0] for _ in range(2000)])
    same = mnist[0][torch.zeros(2000, dtype=torch.long)]
    here, _ = network_input(own, same, torch.Generator().manual_seed(1))
    error = (here.var(0) / 2000 + stock.var(0) / 2000).sqrt()
    differ = (here.mean(0) - stock.mean(0)).abs() / error.clamp(min=1e-6)
    assert differ.max() < 5
    assert stock.var(0).max() > 0.1


def test_a_step_needs_the_operations_of_its_convolutions_and_linear_layers() -> None:
    own = loading.load_iteration(6).recipe
    images = example_input(own)[:1].repeat(128, 1, 1, 1)
    assert step.operations(own.network(), images) == 796_532_736
    by_hand = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4),  # 25 pixels, 9 weights, no gradient of its input
        nn.Flatten(),
        nn.Linear(100, 10),
    )
    expected = 2 * 2 * (2 * 4 * 25 * 9 + 3 * 100 * 10)
    assert step.operations(by_hand, torch.randn(2, 4, 5, 5)) == expected


@pytest.mark.slow
def test_the_code_of_before_trains(tmp_path: Path) -> None:
    before.check_out(tmp_path)
    contender = measure.Contender(
        before.prepare_before, (14, str(tmp_path), 300), before.turn_before
    )  # fmt: skip
    (seconds,) = measure.in_turns({"before": contender}, rounds=1)["before"]
    assert 0 < seconds < 60


@pytest.mark.slow
def test_here_and_stock_are_as_accurate() -> None:
    """Of some steps, by how well they classify."""
    own = [whole_runs.train((6, seed, "compiled"), 1, 47 * 128)["final"] for seed in range(1, 6)]
    stock = []
    for seed in range(1, 6):
        pipeline = Stock(loading.load_iteration(6).recipe, workers=0, seed=seed)
        pipeline.epoch(47)
        stock.append(pipeline.evaluate() / 10_000)
    assert stats.mannwhitneyu(own, stock).pvalue > 0.01
