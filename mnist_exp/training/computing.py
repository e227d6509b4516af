"""What computes the networks of a training: the kernels of `mnist_exp.engine`, or torch."""

import contextlib
from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from mnist_exp.engine.compiled import CompiledNetwork
from mnist_exp.engine.images import compiled_loops
from mnist_exp.recipe import Recipe
from mnist_exp.training import classifier

Engine = Literal["compiled", "torch"]
"""What computes the steps of a training: the kernels of `mnist_exp.engine`, or torch alone."""


class Computing:
    """The engine of a training, with its network in compiled kernels if it can be.

    `trained` and `evaluated` are None where torch computes; `unsuited` says why it does though the
    engine was asked for, or is "".
    """

    def __init__(self, recipe: Recipe, network: nn.Module, engine: Engine) -> None:
        self.engine = engine
        self.unsuited = ""
        self.trained: CompiledNetwork | None = None
        if engine == "compiled":
            compiled = CompiledNetwork(network.train())
            self.unsuited = compiled.unsuited(classifier.example_input(recipe))
            if recipe.autocast:
                self.unsuited = f"autocast={recipe.autocast}"
            if not self.unsuited:
                self.trained = compiled
        self.evaluated = self.trained

    def evaluate(self, network: nn.Module) -> None:
        """From now on it is another network that is evaluated, an average of the trained one."""
        if self.trained:
            self.evaluated = CompiledNetwork(network)

    def leave_to_torch(self, why: str) -> None:
        """From now on torch computes the networks."""
        self.trained = self.evaluated = None
        self.unsuited = why

    def cross_entropy(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """As `CompiledNetwork.cross_entropy`, of the trained network; None if torch computes it."""
        return self.trained.cross_entropy(images, labels) if self.trained else None

    @property
    def through_torch(self) -> tuple[str, ...]:
        """What the compiled engine leaves to torch, as far as batches have shown it."""
        if self.trained is None:
            return (f"the whole network ({self.unsuited})",) if self.unsuited else ()
        return self.trained.through_torch

    @contextlib.contextmanager
    def standing_in(self, compiled: CompiledNetwork | None = None) -> Iterator[None]:
        """In the block, the engine prepares images, and computes the network of `compiled`."""
        with contextlib.ExitStack() as stack:
            if self.engine == "compiled":
                stack.enter_context(compiled_loops())
            if compiled:
                stack.enter_context(compiled.standing_in())
            yield
