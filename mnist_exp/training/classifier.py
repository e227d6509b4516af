"""From pixels to the network's output: what the network sees in training, and what is evaluated."""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mnist_exp.data import Digits, normalise
from mnist_exp.preprocess import Preprocess
from mnist_exp.recipe import PIXELS, Recipe
from mnist_exp.training import transforms
from mnist_exp.views import Views

EVALUATION_BATCH = 250  # its activations stay in a core's cache


def network_input(
    recipe: Recipe, digits: Digits, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Training digits as the network sees them: images, float32 (N, C, H, W), and labels."""
    images, labels = transforms.augmented(
        recipe.augment, digits.images.float(), digits.labels, generator
    )
    return prepared(images, recipe.preprocess), labels


def example_input(recipe: Recipe) -> Tensor:
    """Two black images as the network sees them in evaluation, float32 (2, C, H, W)."""
    return prepared(torch.zeros(2, *PIXELS), recipe.preprocess)


def prepared(images: Tensor, preprocess: Preprocess | Sequence[Preprocess] | None) -> Tensor:
    """Pixels 0..255, float32 (N, 1, 28, 28), preprocessed and normalised."""
    return normalise(transforms.preprocessed(preprocess, images))


class Classifier(nn.Module):
    """A network behind its preprocessing and normalisation: what is evaluated, and kept.

    It takes uint8 images (N, 1, 28, 28) and gives float32 (N, 10): the network's output, or, with
    views, the logarithms of the probabilities, averaged over the views of each image.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess | Sequence[Preprocess] | None = None,
        views: Views | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.views = views

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float()
        if self.views is None:
            return self._output(pixels)
        outputs = [self._output(view).log_softmax(dim=1) for view in self.views(pixels)]
        # The logarithm of the mean over V views, (V, N, 10): log(sum(p)) - log(V). From logarithms,
        # since a probability may be too small for float32.
        return torch.stack(outputs).logsumexp(dim=0) - math.log(len(outputs))

    def _output(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.network(prepared(pixels, self.preprocess))
        return output.float()  # a network may compute in fewer bits


@torch.no_grad()  # a network may keep what it made here, and train with it
def predict(classifier: Classifier, images: Tensor) -> Tensor:
    """The output of the classifier in evaluation mode, float32 (N, 10), for uint8 images
    (N, 1, 28, 28)."""
    classifier.eval()
    return torch.cat([classifier(part) for part in images.split(EVALUATION_BATCH)])


def exported(classifier: Classifier, images: Tensor) -> nn.Module:
    """The classifier as it is kept: traced on uint8 images (N, 1, 28, 28), N > 1, for any number of
    them. Raises whatever torch does where it cannot be traced."""
    batch = ({0: torch.export.Dim.AUTO},)
    logging.disable()  # torch tells at length of what it raises, in its log and beside it
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own internals
            return torch.export.export(classifier.eval(), (images,), dynamic_shapes=batch).module()
    finally:
        logging.disable(logging.NOTSET)


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters; a complex one is two numbers, and counts as two."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return sum(p.numel() * (1 + p.is_complex()) for p in trained)
