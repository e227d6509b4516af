"""A training loop of one's own is recorded: `with track("my idea", network=net) as run:`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsFloat

import torch
from torch import nn

from mnist_exp import tracking
from mnist_exp.common import interrupts
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import percent
from mnist_exp.data import Fold, Split
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.notebook import loading
from mnist_exp.recipe import PIXELS
from mnist_exp.runs import environment, record
from mnist_exp.runs.record import EpochRecord
from mnist_exp.scripts import given, origin
from mnist_exp.scripts.given import Accuracy, Idea
from mnist_exp.showing import description
from mnist_exp.tracking import RunWriter, names, ui
from mnist_exp.training import classifier

log = logging.getLogger(__name__)

_alone = threading.Lock()
"""Held while a run is tracked: an epoch of one within another would be one too many."""


def track(
    name: str,
    *,
    network: nn.Module,
    seed: int = 1,
    split: Split = "test",
    fold: Fold | int | None = None,
    settings: Mapping[str, object] | None = None,
    input_shape: Sequence[int] = PIXELS,
) -> TrackedRun:
    """Record what a training loop of your own does, as a run of the idea called `name`:

        with track("my idea", network=net, seed=1, settings={"batch_size": 128}) as run:
            for epoch in range(15):
                ...  # train net, and count what is right
                run.epoch(train=0.9871, test=(9912, 10000))

    `network` is the torch module that is trained and evaluated, for images of `input_shape`
    (channels, height, width). `seed` and `settings`, names and values, say what you chose; nothing
    is set by them. `split` says which digits are held out: "test" or "validation", and of that the
    `fold`, as `load_digits` gives them.

    The run holds the number of parameters, the receptive field, layers, accuracies, the network as
    it is at the end, your script, and the verdict, which is printed. The newest finished run of a
    name and seed counts. The run ends with the block: an exception leaves it FAILED, Ctrl-C KILLED,
    and either is raised again.

    Raises TypeError, ValueError or ExpectedError before a run exists where something given cannot
    be right, or the store cannot be used.
    """
    idea = given.settle_idea(name, network, seed, split, fold, settings or {}, input_shape)
    return TrackedRun(idea, *origin.calling_code())


class TrackedRun:
    """A run of a script: `with` begins and ends it, and `epoch` records what came of each epoch."""

    def __init__(self, idea: Idea, file: str, source: str) -> None:
        self.idea = idea
        self.run_id = ""
        """In the store; empty before the block."""
        self.verdict: RunVerdict | None = None
        """None before the end of the block, and on the validation split."""
        self._file, self._source = file, source
        self._target = loading.load_target()
        self._block = contextlib.ExitStack()
        self._epochs: record.Epochs | None = None
        self._count, self._since, self._device = 0, 0.0, ""

    def __enter__(self) -> TrackedRun:
        if self.run_id:
            raise ExpectedError(f"{self.idea.run_name} was tracked already: call track(...) again")
        self._block.enter_context(self._under_way())
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        return self._block.__exit__(*exception)

    def epoch(
        self,
        *,
        train: Accuracy,
        test: Accuracy | None = None,
        validation: Accuracy | None = None,
        train_loss: SupportsFloat | None = None,
        test_loss: SupportsFloat | None = None,
        validation_loss: SupportsFloat | None = None,
        learning_rate: SupportsFloat | None = None,
    ) -> None:
        """Record the next epoch: the accuracy on the training digits, and on those held out, as
        `test` or `validation`, whichever the split is.

        An accuracy is a fraction, as 0.9912, or better a count, (9912, 10000), on which the target
        is judged. A fraction of the digits held out has to be that of a whole number of them, which
        float32 is exact enough for. Losses (nats) and the learning rate may be left out.

        Raises TypeError or ValueError for anything else, and ExpectedError outside of the block, or
        when the store cannot be written to. What a server that is away misses is written later.
        """
        metrics = given.epoch_metrics(
            self.idea,
            {"train": train, "test": test, "validation": validation},
            {"train": train_loss, "test": test_loss, "validation": validation_loss},
            learning_rate,
        )
        if self._epochs is None:
            raise ExpectedError(
                f"{self.idea.run_name} is not being tracked: run.epoch(...) belongs inside of the "
                "block `with track(...) as run:`"
            )
        now = time.perf_counter()
        metrics[names.EPOCH_SECONDS] = now - self._since
        self._count, self._since, self._device = self._count + 1, now, _device(self.idea.network)
        try:
            self._epochs.add(EpochRecord(self._count, time.time(), metrics))
        except KeyboardInterrupt:
            interrupts.heard()  # whoever catches it may go on
            raise

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        if not _alone.acquire(blocking=False):
            raise ExpectedError("another run is being tracked in this process: end its block first")
        idea = self.idea
        try:
            with (
                interrupts.heeded(),
                tracking.start_run(
                    idea.run_name, _parameters(idea), {"idea": idea.name, names.TRACKED: idea.name},
                    source=self._file,
                ) as run,
            ):  # fmt: skip
                self._begin(run)
                self._epochs = epochs = record.Epochs(run)
                self._since = time.perf_counter()
                try:
                    with tracking.system_metrics(run):
                        yield
                finally:
                    self._epochs = None
                accuracy = self._end(run, epochs)
        finally:
            _alone.release()
        print(f"{idea.run_name}: {idea.split} accuracy {percent(accuracy)} after the last epoch")
        print(
            description.verdict_lines(self.verdict) if self.verdict
            else "Not judged: the target is about the test split."
        )  # fmt: skip
        address = ui.run_address(run.experiment_id, run.run_id)
        print(f"See it: {'' if tracking.is_served() else 'make ui, then '}{address}")

    def _begin(self, run: RunWriter) -> None:
        """Record what is known before the first epoch."""
        self.run_id = run.run_id
        run.describe(description.run_description(self.idea.name, "In training."))
        run.log_metrics({"parameters": self.idea.parameters})
        if self._source:
            run.log_text(self._source, names.TextFile.SCRIPT)
        record.write_code(run)
        record.write_layers(run, self.idea.receptive_field, self.idea.layers)

    def _end(self, run: RunWriter, epochs: record.Epochs) -> float:
        """Record what the epochs came to; returns the accuracy after the last, a fraction."""
        idea = self.idea
        if not self._count:
            raise ExpectedError(
                f"no epoch of {idea.run_name} was recorded: call run.epoch(train=..., "
                f"{idea.split}=...) after each"
            )
        parameters = classifier.count_parameters(idea.network)
        if parameters > idea.parameters:
            raise ExpectedError(
                f"the network of {idea.run_name} has {parameters:,} trainable parameters, and had "
                f"{idea.parameters:,} when its run began, which stand in the record: build it first"
            )
        epochs.write()
        run.log_parameters({"device": self._device})
        accuracy, self.verdict = record.write_scores(
            run, split=idea.split, images=idea.images, parameters=idea.parameters,
            target=self._target,
        )  # fmt: skip
        table = ui.run_path(run.experiment_id, run.run_id, names.Table.RECEPTIVE_FIELD.json)
        followed = idea.receptive_field.size is not None
        run.describe(
            description.of_ended_run(
                idea.name, split=idea.split, fold=idea.fold, accuracy=accuracy,
                verdict=self.verdict,
                receptive_field=str(idea.receptive_field) if followed else "", table=table,
                why_not_kept=self._keep(run),
            )
        )  # fmt: skip
        return accuracy

    def _keep(self, run: RunWriter) -> str:
        """Keep the network as it is now; returns why it could not be kept, or ""."""
        try:
            network = self.idea.copied()
        except Exception as error:  # of whatever the network holds by now
            why = f"it cannot be copied: {' '.join(str(error).split())[:200]}"
            log.warning("the network is not kept: %s", why)
            return why
        return record.keep_network(run, network, self.idea.example)


def _parameters(idea: Idea) -> dict[str, object]:
    surroundings = environment.surroundings(torch.device("cpu"))
    del surroundings["device"]  # a script may move its network before it trains
    return {
        "network": type(idea.network).__name__,
        **{f"settings.{name}": text for name, text in idea.settings.items()},
        "seed": idea.seed,
        "split": idea.split,
        **({names.FOLD: idea.fold} if idea.fold else {}),
        names.images(idea.split): idea.images,
        "parameters": idea.parameters,
        "receptive_field": str(idea.receptive_field),
        **surroundings,
    }


def _device(network: nn.Module) -> str:
    return next((parameter.device.type for parameter in network.parameters()), "cpu")
