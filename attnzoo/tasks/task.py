"""What a training knows of what is learned: batches, a model, a loss and scores."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import Experiment
from attnzoo.errors import UserError
from attnzoo.plotting import Figure
from attnzoo.tasks.losses import Sums

Batch = Mapping[str, Array | np.ndarray]


@runtime_checkable
class Plan(Protocol):
    """Which examples make up the batch of every step: a pure function of the seed and the step."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, step: int) -> Mapping[str, np.ndarray]: ...

    def batches(self, epoch: int = 0) -> Iterator[Mapping[str, np.ndarray]]: ...

    def fingerprint(self) -> dict[str, Any]: ...


class Task:
    """The interface of a task.

    ``open`` makes what a finished run needs, ``create`` what a training needs: with its data, as
    ``train``, ``validation`` and ``test`` plans (a part that is empty is None).
    """

    unit: ClassVar[str]
    """What ``count`` of the sums counts."""
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("nll", "min")
    """The validation score of which the best checkpoint is kept."""
    free: ClassVar[tuple[str, ...]] = ()
    """Fields of the config that may change when a run goes on."""

    def __init__(self, config: Experiment):
        self.config = config
        self.settings: Any = config.task
        self.notes: list[str] = []
        self.train: Plan | None = None
        self.validation: Plan | None = None
        self.test: Plan | None = None
        self.data_fingerprint = ""

    @classmethod
    def open(cls, config: Experiment, directory: Path) -> "Task":
        """The task of a run directory, without its data."""
        raise NotImplementedError(f"{cls.__name__}.open")

    @classmethod
    def create(cls, config: Experiment, directory: Path, *, resume: bool) -> "Task":
        """The task with its data; what ``open`` needs is written into the run directory, or read
        there where a run goes on.
        """
        raise NotImplementedError(f"{cls.__name__}.create")

    def build_model(self, seed: int | None = None) -> nnx.Module:
        """The model of the config with fresh weights.

        Raises:
            UserError: sizes that do not fit one another (heads that do not divide a width).
        """
        rngs = nnx.Rngs(self.config.training.seed if seed is None else seed)
        try:
            return self.model(rngs)
        except ValueError as error:
            raise UserError(f"model: {error}") from error

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model of the config; ValueError for sizes that do not fit."""
        raise NotImplementedError(f"{type(self).__name__}.model")

    def inputs(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """The arrays of a batch that the loss reads."""
        return {name: array for name, array in batch.items() if name != "rows"}

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """The training loss with dropout (``rngs``), and the sums that scores are made of:
        ``count``, ``weight`` (what the loss is a mean over), ...
        """
        raise NotImplementedError(f"{type(self).__name__}.loss")

    def measure(self, model: Any, batch: Batch) -> Sums:
        """The sums of a batch of the validation part."""
        return self.loss(model, batch)[1]

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """From sums over many batches to what is reported."""
        count = max(sums["count"], 1.0)
        nll = sums["nll"] / count
        return {
            "nll": nll,
            "perplexity": math.exp(min(nll, 700.0)),
            "accuracy": sums["correct"] / count,
        }

    def describe(self, scores: Mapping[str, float]) -> str:
        """One line of validation scores."""
        return (
            f"loss {scores['nll']:.4f}, perplexity {scores['perplexity']:.2f}, "
            f"accuracy {scores['accuracy']:.1%}"
        )

    def introduction(self) -> str:
        """The data in one line."""
        raise NotImplementedError(f"{type(self).__name__}.introduction")

    def fingerprint(self) -> dict[str, Any]:
        """What decides the batches and the model, to be compared when a run goes on."""
        assert self.train is not None
        return {"data": self.data_fingerprint, "batches": self.train.fingerprint()}

    def glimpse(self, model: Any) -> tuple[str, Figure] | str | None:
        """Something to look at now and then: a named figure, or a text."""
        return None
