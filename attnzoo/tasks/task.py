"""Interface of a task: batches, a model, a loss and scores."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.batching import Plan
from attnzoo.data.corpus import Report, only_part
from attnzoo.data.order import most_buckets
from attnzoo.data.parts import repeated_parts
from attnzoo.errors import UserError
from attnzoo.plotting import Figure
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.prediction import Evaluation, Prediction, PredictSettings
from attnzoo.tasks.run_file import RunFile, tokenizer_of

Batch = Mapping[str, Array | np.ndarray]


class Task:
    """The interface of a task.

    ``open`` makes a task for a finished run. ``create`` makes one for training, with its data as
    ``train``, ``validation`` and ``test`` plans (None for an empty part). A subclass declares its
    ``files`` and writes ``read``, ``learn`` and ``take``.
    """

    unit: ClassVar[str]
    """Unit of ``count`` in the sums."""
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("nll", "min")
    """Validation score that selects the best checkpoint, and its direction."""
    free: ClassVar[tuple[str, ...]] = ()
    """Config fields that may change when a run is resumed."""
    files: ClassVar[Mapping[str, RunFile]] = {}
    """Files of the run directory, by the argument of the task's class that each holds."""
    predicts: ClassVar[str | None] = None
    """What ``predict`` reads, such as "pictures"; None: nothing."""
    predict_options: ClassVar[tuple[str, ...]] = ("batch_size",)
    """Fields of ``PredictSettings`` that have an effect, besides the encoding."""
    fixed_shapes: ClassVar[frozenset[str]] = frozenset()
    """Arrays of a batch whose shapes do not depend on the lengths of texts, such as pictures."""
    tokenizer_fields: ClassVar[tuple[str, ...]] = ()
    """Config fields that describe the tokenizers; a run that starts from another takes its own."""

    def __init__(self, config: ExperimentConfig):
        self.config = config
        self.settings: Any = config.task
        self.notes: list[str] = []
        self.train: Plan | None = None
        self.validation: Plan | None = None
        self.test: Plan | None = None
        self.data_fingerprint = ""
        self.reports: Sequence[Report] = ()
        self.max_buckets: int | None = None

    def limit_buckets(self, rows: int) -> int:
        """Return the most lengths that plans may choose to pad to, as many as a resumed run had.

        ``rows`` is the number of examples of the training part.
        """
        if self.max_buckets is None:
            settings = self.config.training
            self.max_buckets = most_buckets(settings.total_steps(-(-rows // settings.batch_size)))
        return self.max_buckets

    @classmethod
    def open(cls, config: ExperimentConfig, directory: Path) -> "Task":
        """Return the task of a run directory, without its data; nothing is written."""
        files = cls.run_files(config)
        return cls(config, **{k: f.read(directory / f.name) for k, f in files.items()})

    @classmethod
    def run_files(cls, config: ExperimentConfig) -> Mapping[str, RunFile]:
        """Return the ``files`` that a run of this config has."""
        return cls.files

    @classmethod
    def create(
        cls,
        config: ExperimentConfig,
        directory: Path,
        *,
        resume: bool,
        max_buckets: int | None = None,
        known: dict[str, Any] | None = None,
    ) -> "Task":
        """Return the task with its data.

        The files of the task are read from the run directory if ``resume``, and nothing is written.
        Otherwise they are taken from ``config.start_from`` or learnt from the training part, and
        written. ``max_buckets`` is that of the run to resume; None: as the length of the training
        says. ``known`` is what is taken from ``config.start_from``; None: what ``take_over`` finds.

        Raises:
          UserError: data that cannot be read, without a training or a validation part, or with a
            class that the run does not know.
        """
        task = cls.open(config, directory) if resume else None
        data = cls.read(config) if task is None else task.read_again(config)
        if not cls.has(data, "train") or not cls.has(data, "validation"):
            raise UserError(
                "data: training needs a train and a validation part, one is empty "
                "(data.validation_share=0.1 draws one)"
            )
        if task is None:
            known = cls.take_over(config) if known is None else known
            task = cls(config, **cls.learn(config, data, known))
            for name, file in cls.run_files(config).items():
                file.write(task.kept(name), directory / file.name)
        task.max_buckets = max_buckets
        task.take(data)
        task.reports = data.reports
        told = [line for report in data.reports for line in report.lines()]
        task.notes[:0] = [*told, *repeated_parts(config.data)]
        return task

    @classmethod
    def read(cls, config: ExperimentConfig) -> Any:
        """Read the data of the config: three parts, and ``reports`` of its files."""
        raise NotImplementedError(f"{cls.__name__}.read")

    @classmethod
    def has(cls, data: Any, part: str) -> bool:
        """Return whether a part of the data is not empty."""
        return len(getattr(data, part)) > 0

    def read_again(self, config: ExperimentConfig, part: str | None = None) -> Any:
        """Read the data of the config as the run knows it, with classes in the order of the run.

        ``part`` is the only one that is wanted; None: all.
        """
        return self.read(config)

    def read_part(self, *parts: str) -> tuple[str, Any]:
        """Read the first of these parts that the data has; return its name, and the data.

        Other parts are not read, unless it is drawn from the training part.

        Raises:
          UserError: data that cannot be read, without any of these parts, or with a class that the
            run does not know.
        """
        for part in parts:
            config = only_part(self.config.data, part)
            if config is not None:
                data = self.read_again(dataclasses.replace(self.config, data=config), part)
                if self.has(data, part):
                    return part, data
        raise UserError(f"data: there is no {' or '.join(parts)} part in it")

    def scored(self, *parts: str) -> tuple[str, Plan]:
        """Return the first of these parts that the data has, and its batches in its own order.

        ``data_fingerprint`` is then that of the part. Errors are those of ``read_part``.
        """
        part, data = self.read_part(*parts)
        return part, self.open_part(data, part)

    def open_part(self, data: Any, part: str) -> Plan:
        """Return the batches of one part in its own order, and set ``data_fingerprint``.

        Other parts of ``data`` may be empty. By default the batches are those of ``take``.
        """
        self.take(data)
        return getattr(self, part)

    @classmethod
    def take_over(cls, config: ExperimentConfig) -> dict[str, Any]:
        """Return the arguments of the class that come from ``config.start_from``: the tokenizer."""
        return tokenizer_of(config) if "tokenizer" in cls.files else {}

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the class: the known ones, others learnt from the data."""
        return known

    def kept(self, name: str) -> Any:
        """Return the value that the file of this argument holds."""
        return getattr(self, name)

    def take(self, data: Any) -> None:
        """Make the plans of the parts, and set ``data_fingerprint``."""
        raise NotImplementedError(f"{type(self).__name__}.take")

    def new_head(self, path: Path) -> bool:
        """Return whether the output layer of ``path`` has another meaning than this task's."""
        return False

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

    def evaluate(self, model: Any, part: str, plan: Plan, settings: PredictSettings) -> Evaluation:
        """Return the scores of a part that are no sums over batches, such as BLEU (default: none).

        ``part`` is the part of the data that ``scored`` opened as ``plan``.
        """
        return Evaluation({}, ())

    def predict(
        self, model: Any, inputs: Sequence[Path], settings: PredictSettings
    ) -> Iterator[Prediction]:
        """Yield a prediction for every input, in their order, also where there is a problem.

        ``inputs`` are files, or ``-`` for standard input.
        """
        raise NotImplementedError(f"{type(self).__name__}.predict")

    def glimpse(self, model: Any) -> tuple[str, Figure] | str | None:
        """Return an example of the model's output: a named figure, a text, or None."""
        return None
