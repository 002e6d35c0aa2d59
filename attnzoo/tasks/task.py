"""Interface of a task: batches, a model, a loss and scores."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.errors import UserError
from attnzoo.plotting import Figure
from attnzoo.tasks.losses import Sums

Batch = Mapping[str, Array | np.ndarray]


@runtime_checkable
class Plan(Protocol):
    """Batches of every step, as a pure function of the seed and the step."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, step: int, rows: slice | None = None) -> Mapping[str, np.ndarray]: ...

    def batches(self, epoch: int = 0) -> Iterator[Mapping[str, np.ndarray]]: ...

    def fingerprint(self) -> dict[str, Any]: ...


class Task:
    """The interface of a task.

    ``open`` makes a task for a finished run. ``create`` makes one for training, with its data as
    ``train``, ``validation`` and ``test`` plans (None for an empty part).
    """

    unit: ClassVar[str]
    """Unit of ``count`` in the sums."""
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("nll", "min")
    """Validation score that selects the best checkpoint, and its direction."""
    free: ClassVar[tuple[str, ...]] = ()
    """Config fields that may change when a run is resumed."""

    def __init__(self, config: ExperimentConfig):
        self.config = config
        self.settings: Any = config.task
        self.notes: list[str] = []
        self.train: Plan | None = None
        self.validation: Plan | None = None
        self.test: Plan | None = None
        self.data_fingerprint = ""

    @classmethod
    def open(cls, config: ExperimentConfig, directory: Path) -> "Task":
        """Return the task of a run directory, without its data."""
        raise NotImplementedError(f"{cls.__name__}.open")

    @classmethod
    def create(cls, config: ExperimentConfig, directory: Path, *, resume: bool) -> "Task":
        """Return the task with its data.

        Files that ``open`` needs are written to the run directory, or read from it if ``resume``.
        """
        raise NotImplementedError(f"{cls.__name__}.create")

    def build_model(self, seed: int | None = None) -> nnx.Module:
        """Build the model of the config with new random weights.

        Raises:
            UserError: inconsistent sizes (such as heads that do not divide a width).
        """
        rngs = nnx.Rngs(self.config.training.seed if seed is None else seed)
        try:
            return self.model(rngs)
        except ValueError as error:
            raise UserError(f"model: {error}") from error

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the model of the config; ValueError for inconsistent sizes."""
        raise NotImplementedError(f"{type(self).__name__}.model")

    def inputs(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """Return the arrays of a batch that the loss reads."""
        return {name: array for name, array in batch.items() if name != "rows"}

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the training loss with dropout (``rngs``), and the sums for ``scores``.

        The sums hold ``count``, ``weight`` (the divisor of the mean loss) and others.
        """
        raise NotImplementedError(f"{type(self).__name__}.loss")

    def measure(self, model: Any, batch: Batch) -> Sums:
        """Return the sums of a validation batch."""
        return self.loss(model, batch)[1]

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the reported scores from sums over many batches."""
        count = max(sums["count"], 1.0)
        nll = sums["nll"] / count
        return {
            "nll": nll,
            "perplexity": math.exp(min(nll, 700.0)),
            "accuracy": sums["correct"] / count,
        }

    def describe(self, scores: Mapping[str, float]) -> str:
        """Format validation scores in one line."""
        return (
            f"loss {scores['nll']:.4f}, perplexity {scores['perplexity']:.2f}, "
            f"accuracy {scores['accuracy']:.1%}"
        )

    def introduction(self) -> str:
        """Describe the data in one line."""
        raise NotImplementedError(f"{type(self).__name__}.introduction")

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines batches and model, compared when a run is resumed."""
        assert self.train is not None
        return {"data": self.data_fingerprint, "batches": self.train.fingerprint()}

    def glimpse(self, model: Any) -> tuple[str, Figure] | str | None:
        """Return an example of the model's output: a named figure, a text, or None."""
        return None
