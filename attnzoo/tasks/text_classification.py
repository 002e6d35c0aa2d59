"""Classification of texts and tagging of words, by an encoder with a head."""

import dataclasses
import logging
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.labelled import LabelledCorpus, LabelledPlan, load_labelled
from attnzoo.data.order import MAX_BUCKETS, most_buckets
from attnzoo.data.tagged import TaggedCorpus, TaggedPlan, load_tagged
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer
from attnzoo.models import model_class
from attnzoo.tasks.class_answers import ONE_CLASS, class_answer, class_scores
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.prediction import CHUNK, Prediction, PredictSettings, named_lines
from attnzoo.tasks.run_file import CLASS_NAMES, TOKENIZER, class_names_of
from attnzoo.tasks.task import Batch, Plan, Task
from attnzoo.tasks.translation import padded_length

logger = logging.getLogger(__name__)


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
        self.problem_type = ONE_CLASS

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
        config: Any = self.config.model.with_known(head=self.head, num_classes=len(self.names))
        longest = config.longest
        if longest is not None and self.config.training.max_length > longest:
            raise ValueError(
                f"max_length={longest} is below "
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

    def predict(
        self, model: Any, inputs: Sequence[Path], settings: PredictSettings
    ) -> Iterator[Prediction]:
        """Yield the class of every line, or the tags of its words."""
        graph, state = nnx.split(model)
        room = model.max_length or 512
        sizes = sorted({min(padded_length(n), room) for n in range(4, room + 1)})
        rows = settings.batch_size or 64

        @jax.jit
        def said(state: Any, batch: Batch) -> Array:
            logits = self.logits(nnx.merge(graph, state), batch, None)
            return class_scores(logits, self.problem_type)

        for path in inputs:
            lines = named_lines(path, settings.encoding)
            while some := list(islice(lines, CHUNK)):
                readable = [n for n, (_, text) in enumerate(some) if text and not text.isspace()]
                found: dict[int, Prediction] = {}
                for numbers, corpus in self.unlabelled({n: some[n][1] or "" for n in readable}):
                    plan = self.plans(corpus, self.tokenizer, rows, room, sizes, 0, False)
                    for row in plan.cut_rows:
                        logger.warning(
                            "%s: longer than the %d tokens that the model reads; its end is left "
                            "out",
                            *(some[numbers[row]][0], room),
                        )
                    for batch in plan.batches():
                        shares = jax.device_get(said(state, self.inputs(batch)))
                        for row, share in zip(batch["rows"], shares, strict=True):
                            if row >= 0:
                                number = numbers[row]
                                found[number] = self.answer(
                                    some[number][0], corpus, int(row), share
                                )
                for number, (name, text) in enumerate(some):
                    why = f"not {settings.encoding.upper()}" if text is None else "no text"
                    yield found.get(number) or Prediction(name, "", problem=why)

    def unlabelled(self, texts: Mapping[int, str]) -> Iterator[tuple[list[int], Any]]:
        """Yield texts as data without classes, with their numbers, those of a kind together."""
        raise NotImplementedError(f"{type(self).__name__}.unlabelled")

    def answer(
        self, name: str, corpus: Any, row: int, shares: Float[np.ndarray, "... V"]
    ) -> Prediction:
        """Return the prediction for a row of the data, given the scores of the classes."""
        raise NotImplementedError(f"{type(self).__name__}.answer")

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
    predicts = "texts, one a line, or pairs of texts with a tab between them"
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

    def unlabelled(self, texts: Mapping[int, str]) -> Iterator[tuple[list[int], LabelledCorpus]]:
        """Yield single texts, and pairs."""
        for paired in (False, True):
            chosen = [number for number, text in texts.items() if ("\t" in text) == paired]
            parts = [texts[number].split("\t", 1) for number in chosen]
            second = [part[1] for part in parts] if paired else None
            labels = np.zeros(len(parts), np.int32)
            if parts:
                yield chosen, LabelledCorpus([p[0] for p in parts], second, labels, self.names)

    def answer(
        self, name: str, corpus: LabelledCorpus, row: int, shares: Float[np.ndarray, "V"]
    ) -> Prediction:
        """Return the most probable class, or what ``problem_type`` asks for."""
        said, record = class_answer(self.names, shares, self.problem_type)
        texts = [side[row] for side in (corpus.first, corpus.second) if side is not None]
        return Prediction(name, said, {"texts": texts, **record})

    def inputs(self, batch: Mapping[str, Any]) -> Batch:
        """Return the arrays that the loss reads; ``counted`` is False for padding rows."""
        return {**super().inputs(batch), "counted": batch["rows"] >= 0}


class TokenClassificationTask(ClassificationTask):
    """Tagging of every word, predicted at its first token."""

    unit = "words"
    predicts = "sentences, one a line, with spaces between words"
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

    def unlabelled(self, texts: Mapping[int, str]) -> Iterator[tuple[list[int], TaggedCorpus]]:
        """Yield all sentences."""
        words = [text.split() for text in texts.values()]
        if words:
            yield list(texts), TaggedCorpus(words, [[0] * len(w) for w in words], self.names)

    def answer(
        self, name: str, corpus: TaggedCorpus, row: int, shares: Float[np.ndarray, "T V"]
    ) -> Prediction:
        """Return the tag of each word, which is that of its first token; "?" where it was cut."""
        marks = self.marks(corpus.words[row])
        best = [self.names[int(shares[t].argmax())] if t < len(shares) - 1 else "?" for t in marks]
        return Prediction(name, " ".join(best), {"words": corpus.words[row], "tags": best})

    def marks(self, words: Sequence[str]) -> list[int]:
        """Return the place of the first token of each word, after CLS."""
        sizes = [len(self.tokenizer.encode_ids(f" {word}")) or 1 for word in words]
        return [1 + sum(sizes[:n]) for n in range(len(words))]
