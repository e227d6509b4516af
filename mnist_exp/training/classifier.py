"""From pixels to the network's output: what the network sees in training, and what is evaluated."""

import math

import torch
from torch import Tensor, nn

from mnist_exp.data import normalise
from mnist_exp.preprocess import Preprocessing
from mnist_exp.recipe import Recipe
from mnist_exp.views import Views

EVALUATION_BATCH = 250  # its activations stay in a core's cache


def network_input(recipe: Recipe, images: Tensor, generator: torch.Generator) -> Tensor:
    """Training images, uint8 (N, 1, 28, 28), as the network sees them: augmented, preprocessed,
    normalised."""
    pixels = images.float()
    if recipe.augment:
        pixels = recipe.augment(pixels, generator)
    return _prepared(pixels, recipe.preprocess)


def _prepared(pixels: Tensor, preprocess: Preprocessing | None) -> Tensor:
    return normalise(preprocess(pixels) if preprocess else pixels)


class Classifier(nn.Module):
    """A network with the preprocessing and normalisation in front: from uint8 images
    (N, 1, 28, 28) to the network's output, float32 (N, 10); with views, to the logarithms of the
    mean of their probabilities."""

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocessing | None = None,
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
        return torch.stack(outputs).logsumexp(dim=0) - math.log(len(outputs))

    def _output(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.network(_prepared(pixels, self.preprocess))
        return output


@torch.inference_mode()
def predict(classifier: Classifier, images: Tensor) -> Tensor:
    """Classifier output, float32 (N, 10), for uint8 images (N, 1, 28, 28), in evaluation mode."""
    classifier.eval()
    return torch.cat([classifier(part) for part in images.split(EVALUATION_BATCH)])


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
