"""What a script gives is checked, before a run begins and with each epoch."""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mnist_exp import data
from mnist_exp.common.copying import copied
from mnist_exp.common.values import as_text
from mnist_exp.data.splits import TEST_DIGITS, held_out_images, one_fold
from mnist_exp.runs import provenance
from mnist_exp.tracking import names
from mnist_exp.training import classifier, receptive_field, torch_internals
from mnist_exp.training.following import repeatable
from mnist_exp.training.receptive_field import ReceptiveField

Accuracy = SupportsFloat | tuple[SupportsIndex, SupportsIndex]
"""A fraction, as 0.9912, or digits: (correct, total), as (9912, 10000)."""

LONGEST_NAME, LONGEST_SETTING = 100, 1_000
ROUNDING = 2e-7
"""By so much a fraction in float32 may differ from that of two whole numbers."""


@dataclass(frozen=True)
class Idea:
    """What is tracked: all that is known before the first epoch."""

    name: str
    seed: int
    split: data.Split
    fold: data.Fold | None
    """Of the validation split: what is held out."""
    settings: Mapping[str, str]
    """What the script set, as text."""
    network: nn.Module = field(repr=False)
    """The script's own, which it trains."""
    example: Tensor = field(repr=False)
    """Two black images as the network takes them, float32 (2, C, H, W)."""
    parameters: int
    receptive_field: ReceptiveField
    layers: str

    @property
    def images(self) -> int:
        """How many digits are held out."""
        return held_out_images(self.fold)

    @property
    def run_name(self) -> str:
        """The run's name in the store."""
        return f"{self.name} · seed {self.seed}"

    def copied(self) -> nn.Module:
        """The network as it is now, on the CPU and in evaluation mode; the script's own stays."""
        return copied(self.network).cpu().float().eval()


def settle_idea(
    name: str, network: nn.Module, seed: int, split: data.Split, fold: str | int | None,
    settings: Mapping[str, object], input_shape: Sequence[int],
) -> Idea:  # fmt: skip
    """Check what a script tracks. Raises TypeError, ValueError or ExpectedError, which name what is
    wrong and show how it is right."""
    name, seed = _name(name), _seed(seed)
    held_out = one_fold(split, fold)
    texts = _settings(settings)
    network = torch_internals.unwrapped(network)
    field = receptive_field.of_network(network, input_shape)  # which checks the last two
    if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        raise ValueError(
            "network has lazy layers without shapes: call it on an image before it is tracked"
        )
    example = torch.zeros(2, *input_shape)
    try:
        with repeatable():
            own = copied(network).cpu().float()
            layers = provenance.layers(own, example)
    except Exception as error:  # whatever a network does
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"network cannot be looked at with black images of {tuple(input_shape)}, which "
            f"input_shape= gives as (channels, height, width): {what}"
        ) from error
    parameters = classifier.count_parameters(network)
    return Idea(name, seed, split, held_out, texts, network, example, parameters, field, layers)


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f'name={name!r:.60}: give the idea a name, as in track("my idea", ...)')
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(
            f"name={name!r:.60}: a name has 1 to {LONGEST_NAME} letters that can be shown, as in "
            'track("my idea", ...)'
        )
    return name


def _seed(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, SupportsIndex):
        raise TypeError(f"seed={seed!r:.60}: a whole number is needed, as in seed=1")
    if not 0 <= operator.index(seed) < 2**32:
        raise ValueError(f"seed={seed!r:.60}: choose one from 0 to {2**32 - 1}, as in seed=1")
    return operator.index(seed)


def _settings(settings: object) -> dict[str, str]:
    example = 'as in settings={"batch_size": 128}'
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings={settings!r:.60}: give their names and values, {example}")
    texts = {}
    for key, value in settings.items():
        if not isinstance(key, str) or not re.fullmatch(names.PLACEHOLDERS["setting"], key):
            raise ValueError(
                f"settings={{{key!r:.60}: ...}}: a name has letters, digits, _, . and -, {example}"
            )
        text = texts[key] = " ".join(as_text(value).split())  # a module has several lines
        if len(text) > LONGEST_SETTING:
            raise ValueError(
                f"settings={{{key!r}: ...}} has {len(text):,} letters as text, of which "
                f"{LONGEST_SETTING:,} are kept: give what sets it apart, {example}"
            )
    return texts


def epoch_metrics(
    idea: Idea,
    accuracies: Mapping[str, Accuracy | None],
    losses: Mapping[str, SupportsFloat | None],
    learning_rate: SupportsFloat | None,
) -> dict[str, float]:
    """What is recorded of an epoch, by name, from what is given of each part of the digits. Raises
    TypeError or ValueError for what cannot be right."""
    split, images = idea.split, idea.images
    if {part for part, value in accuracies.items() if value is not None} != {"train", split}:
        raise TypeError(f"the run is on the {split} split: run.epoch(train=..., {split}=...)")
    (train, held_out) = (accuracies["train"], accuracies[split])
    assert train is not None
    assert held_out is not None
    correct = digits_right(split, held_out, images)
    metrics = {
        names.accuracy("train"): fraction_right("train", train),
        names.accuracy(split): correct / images,
        names.errors(split): images - correct,
    }
    others = {f"{part}_loss": (names.loss(part), loss) for part, loss in losses.items()}
    others |= {"learning_rate": (names.LEARNING_RATE, learning_rate)}
    for given, (name, value) in others.items():
        if value is not None:
            metrics[name] = _finite(given, value)
    return metrics


def digits_right(field: str, accuracy: Accuracy, images: int) -> int:
    """How many of the `images` digits of a split are right, on which the target is judged. Raises
    TypeError or ValueError for what is no such count."""
    if isinstance(accuracy, tuple | list):
        return _pair(field, accuracy, images)[0]
    fraction = _fraction(field, accuracy)
    correct = round(fraction * images)
    if abs(fraction - correct / images) > ROUNDING:
        raise ValueError(
            f"{field}={fraction!r} is no whole number of {images:,} digits, as a mean over batches "
            f"of several sizes is none: count what is right, {_example(field, images)}"
        )
    return correct


def fraction_right(field: str, accuracy: Accuracy) -> float:
    """The fraction of digits that are right. Raises TypeError or ValueError for what is none."""
    if isinstance(accuracy, tuple | list):
        correct, total = _pair(field, accuracy)
        return correct / total
    return _fraction(field, accuracy)


def _finite(field: str, number: SupportsFloat) -> float:
    value = _number(field, number, f"as in {field}=0.034")
    if not math.isfinite(value):
        raise ValueError(f"{field}={value}: a finite number is needed, as in {field}=0.034")
    return value


def _pair(field: str, accuracy: Sequence[SupportsIndex], images: int | None = None) -> list[int]:
    try:
        correct, total = pair = [operator.index(count) for count in accuracy]
    except (TypeError, ValueError):
        raise TypeError(
            f"{field}={accuracy!r:.60}: what is right, and of how many, {_example(field, images)}"
        ) from None
    if not (0 <= correct <= total and total > 0 and total == (images or total)):
        of = f"of {images:,} digits, which the split has" if images else "of all digits"
        raise ValueError(
            f"{field}={accuracy!r:.60}: what is right, {of}, {_example(field, images)}"
        )
    return pair


def _fraction(field: str, accuracy: SupportsFloat | SupportsIndex) -> float:
    fraction = _number(field, accuracy, _example(field))
    if not 0 <= fraction <= 1:
        raise ValueError(f"{field}={fraction:g}: an accuracy is a fraction, {_example(field)}")
    return fraction


def _number(field: str, given: SupportsFloat | SupportsIndex, example: str) -> float:
    try:
        if isinstance(given, str | bytes | bool):
            raise TypeError
        return float(given)
    except (TypeError, ValueError, RuntimeError):  # the last of a tensor of several numbers
        raise TypeError(f"{field}={given!r:.60}: a number is needed, {example}") from None


def _example(field: str, images: int | None = None) -> str:
    return f"as in {field}=0.9912, or {field}=(9912, {images or TEST_DIGITS})"
