"""Classification of texts and tagging of words, by an encoder with a head."""

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.labelled import LabelledPlan, load_labelled
from attnzoo.data.order import MAX_BUCKETS, most_buckets
from attnzoo.data.tagged import TaggedPlan, load_tagged
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer
from attnzoo.models import model_class
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.run_file import CLASS_NAMES, TOKENIZER, class_names_of
from attnzoo.tasks.task import Batch, Plan, Task


class ClassificationTask(Task):
    """Base class of text classification and word tagging: a tokenizer and class names."""

    best = ("accuracy", "max")
    files = types.MappingProxyType({"tokenizer": TOKENIZER, "names": CLASS_NAMES})
    tokenizer_fields = ("tokenizer",)
    head: ClassVar[str]
    classes: ClassVar[str]
    """Field of the data's config that lists the classes."""
    plans: ClassVar[type[LabelledPlan] | type[TaggedPlan]]

    def __init__(self, config: ExperimentConfig, tokenizer: TextTokenizer, names: tuple[str, ...]):
        super().__init__(config)
        self.tokenizer, self.names = tokenizer, names
        self.counts: dict[str, int] = {}

    def read_again(self, config: ExperimentConfig, part: str | None = None) -> Any:
        """Read the parts of the data; a class that the run does not know is a UserError."""
        data: Any = dataclasses.replace(config.data, **{self.classes: self.names})
        return self.read(dataclasses.replace(config, data=data))

    def open_part(self, data: Any, part: str) -> Plan:
        """Return the batches of one part, padded to few lengths."""
        corpus = getattr(data, part)
        self.data_fingerprint = corpus.fingerprint()
        self.max_buckets = most_buckets(-(-len(corpus) // self.config.training.batch_size))
        return self.plan(corpus, shuffle=False)

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Take the classes of the data; train the tokenizer on the texts, unless it is known."""
        if not known:
            known = {"tokenizer": build_tokenizer(config.tokenizer, cls.texts(data.train))}
        return {**known, "names": tuple(data.train.names)}

    def new_head(self, path: Path) -> bool:
        """Return whether the classes of ``path`` are others, or in another order."""
        return self.names != class_names_of(path)

    def take(self, data: Any) -> None:
        """Tokenize the parts and make their plans."""
        self.data_fingerprint = data.fingerprint()
        self.limit_buckets(len(data.train))
        self.train = self.plan(data.train, shuffle=True)
        self.validation = self.plan(data.validation, shuffle=False)
        self.test = self.plan(data.test, shuffle=False) if len(data.test) else None
        self.counts = {part: len(getattr(data, part)) for part in ("train", "validation", "test")}

    @classmethod
    def texts(cls, corpus: Any) -> list[str]:
        """Return the texts on which a tokenizer is trained."""
        raise NotImplementedError(f"{cls.__name__}.texts")

    def plan(self, corpus: Any, *, shuffle: bool) -> Plan:
        """Return the batches of one part, examples of similar length together."""
        settings = self.config.training
        plan = self.plans(
            corpus,
            self.tokenizer,
            settings.batch_size,
            settings.max_length,
            settings.buckets if shuffle else None,
            settings.seed,
            shuffle,
            self.max_buckets or MAX_BUCKETS,
        )
        if plan.cut:
            self.notes.append(
                f"{plan.cut:,} examples cut to training.max_length={settings.max_length}"
            )
        return plan

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the encoder of the config with one class per label of the data."""
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
        """Describe the number of examples and classes, and the vocabulary."""
        assert self.train is not None
        counts = ", ".join(f"{count:,} to {part}" for part, count in self.counts.items())
        return (
            f"{counts}, {self.train.steps_per_epoch} steps an epoch; {len(self.names)} classes; "
            f"vocabulary of {self.tokenizer.vocab_size} ({self.tokenizer.kind})"
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the task's fingerprint with that of the tokenizer."""
        return super().fingerprint() | {"tokenizer": self.tokenizer.fingerprint()}

    def logits(self, model: Any, batch: Batch, rngs: nnx.Rngs | None) -> Array:
        """Return the model's logits of a batch."""
        inputs = {name: jnp.asarray(batch[name]) for name in ("segments", "valid") if name in batch}
        return model(jnp.asarray(batch["tokens"]), rngs=rngs, **inputs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the cross-entropy of the classes, mean over counted labels."""
        smoothing = self.config.training.label_smoothing if rngs is not None else 0.0
        return mean_loss(
            self.logits(model, batch, rngs),
            jnp.asarray(batch["labels"]),
            jnp.asarray(batch["counted"]),
            smoothing,
        )


class SequenceClassificationTask(ClassificationTask):
    """Classification of a text, or of a pair of texts."""

    unit = "texts"
    head = "sequence"
    classes = "labels"
    plans = LabelledPlan

    @classmethod
    def read(cls, config: ExperimentConfig) -> Any:
        """Read the labelled texts of the config."""
        return load_labelled(config.data)

    @classmethod
    def texts(cls, corpus: Any) -> list[str]:
        """Return all texts, both of each pair."""
        return [*corpus.first, *(corpus.second or [])]

    def inputs(self, batch: Mapping[str, Any]) -> Batch:
        """Return the arrays that the loss reads; ``counted`` is False for padding rows."""
        return {**super().inputs(batch), "counted": batch["rows"] >= 0}


class TokenClassificationTask(ClassificationTask):
    """Tagging of every word, predicted at its first token."""

    unit = "words"
    head = "token"
    classes = "tags"
    plans = TaggedPlan

    @classmethod
    def read(cls, config: ExperimentConfig) -> Any:
        """Read the tagged sentences of the config."""
        return load_tagged(config.data)

    @classmethod
    def texts(cls, corpus: Any) -> list[str]:
        """Return the sentences, with words joined by spaces."""
        return [" ".join(words) for words in corpus.words]
