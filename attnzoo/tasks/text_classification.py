"""Classes of texts and tags of words, by an encoder with a head."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import Experiment
from attnzoo.data.labelled import LabelledPlan, load_labelled
from attnzoo.data.tagged import TaggedPlan, load_tagged
from attnzoo.data.text_tokenizers import TextTokenizer, load_tokenizer
from attnzoo.errors import UserError
from attnzoo.models import model_class
from attnzoo.tasks.language_modeling import TOKENIZER, kept_tokenizer
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.task import Batch, Plan, Task

LABELS = "labels.json"


class ClassificationTask(Task):
    """What classification of texts and of their words share: a tokenizer and names of classes."""

    best = ("accuracy", "max")
    head: ClassVar[str]
    plans: ClassVar[type[LabelledPlan] | type[TaggedPlan]]

    def __init__(self, config: Experiment, tokenizer: TextTokenizer, names: tuple[str, ...]):
        super().__init__(config)
        self.tokenizer, self.names = tokenizer, names
        self.counts: dict[str, int] = {}

    @classmethod
    def open(cls, config: Experiment, directory: Path) -> "ClassificationTask":
        """The tokenizer and the classes of a run."""
        names = json.loads((directory / LABELS).read_text(encoding="utf-8"))
        return cls(config, load_tokenizer(directory / TOKENIZER), tuple(names))

    @classmethod
    def create(cls, config: Experiment, directory: Path, *, resume: bool) -> "ClassificationTask":
        """Read the examples, train a tokenizer on them, or read that of the run."""
        splits = cls.read(config)
        if not len(splits.train) or not len(splits.validation):
            raise UserError(
                "data: training needs a train and a validation part, one is empty "
                "(data.validation_share=0.1 draws one)"
            )
        texts = cls.texts(splits.train)
        task = cls(
            config,
            kept_tokenizer(config, directory, texts, resume=resume),
            splits.train.names,
        )
        (directory / LABELS).write_text(json.dumps(task.names) + "\n", encoding="utf-8")
        task.notes = [line for report in splits.reports for line in report.lines()]
        task.data_fingerprint = splits.fingerprint()
        task.train = task.plan(splits.train, shuffle=True)
        task.validation = task.plan(splits.validation, shuffle=False)
        task.test = task.plan(splits.test, shuffle=False) if len(splits.test) else None
        task.counts = {part: len(getattr(splits, part)) for part in ("train", "validation", "test")}
        return task

    @classmethod
    def read(cls, config: Experiment) -> Any:
        """The parts of the data."""
        raise NotImplementedError(f"{cls.__name__}.read")

    @classmethod
    def texts(cls, corpus: Any) -> list[str]:
        """What a tokenizer is trained on."""
        raise NotImplementedError(f"{cls.__name__}.texts")

    def plan(self, corpus: Any, *, shuffle: bool) -> Plan:
        """The batches of one part, examples of similar length together."""
        settings = self.config.training
        plan = self.plans(
            corpus,
            self.tokenizer,
            settings.batch_size,
            settings.max_length,
            settings.buckets if shuffle else None,
            settings.seed,
            shuffle,
        )
        if plan.cut:
            self.notes.append(
                f"{plan.cut:,} examples cut to training.max_length={settings.max_length}"
            )
        return plan

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The encoder of the config with a class for each name of the data."""
        config: Any = dataclasses.replace(
            self.config.model, head=self.head, num_classes=len(self.names)
        )
        if self.config.training.max_length > config.max_length:
            raise ValueError(
                f"max_length={config.max_length} is below "
                f"training.max_length={self.config.training.max_length}"
            )
        model = model_class(config)
        return model(config, self.tokenizer.vocab_size, rngs=rngs)

    def introduction(self) -> str:
        """Examples, classes and vocabulary."""
        assert self.train is not None
        counts = ", ".join(f"{count:,} to {part}" for part, count in self.counts.items())
        return (
            f"{counts}, {self.train.steps_per_epoch} steps an epoch; {len(self.names)} classes; "
            f"vocabulary of {self.tokenizer.vocab_size} ({self.tokenizer.kind})"
        )

    def fingerprint(self) -> dict[str, Any]:
        """Also the tokenizer's."""
        return super().fingerprint() | {"tokenizer": self.tokenizer.fingerprint()}

    def logits(self, model: Any, batch: Batch, rngs: nnx.Rngs | None) -> Array:
        """What the model says of a batch."""
        inputs = {name: jnp.asarray(batch[name]) for name in ("segments", "valid") if name in batch}
        return model(jnp.asarray(batch["tokens"]), rngs=rngs, **inputs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Cross-entropy of the classes, mean over what is counted."""
        smoothing = self.config.training.label_smoothing if rngs is not None else 0.0
        return mean_loss(
            self.logits(model, batch, rngs),
            jnp.asarray(batch["labels"]),
            jnp.asarray(batch["counted"]),
            smoothing,
        )


class SequenceClassificationTask(ClassificationTask):
    """The class of a text, or of a pair."""

    unit = "texts"
    head = "sequence"
    plans = LabelledPlan

    @classmethod
    def read(cls, config: Experiment) -> Any:
        """Labelled texts."""
        return load_labelled(config.data)

    @classmethod
    def texts(cls, corpus: Any) -> list[str]:
        """Both texts of a pair."""
        return [*corpus.first, *(corpus.second or [])]

    def inputs(self, batch: Mapping[str, Any]) -> Batch:
        """Also which rows count."""
        return {**super().inputs(batch), "counted": batch["rows"] >= 0}


class TokenClassificationTask(ClassificationTask):
    """The tag of every word, read off its first token."""

    unit = "words"
    head = "token"
    plans = TaggedPlan

    @classmethod
    def read(cls, config: Experiment) -> Any:
        """Tagged sentences."""
        return load_tagged(config.data)

    @classmethod
    def texts(cls, corpus: Any) -> list[str]:
        """The sentences."""
        return [" ".join(words) for words in corpus.words]
