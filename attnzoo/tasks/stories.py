"""Questions on stories, answered by one word from a memory of sentences."""

import collections
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.batching import Plan
from attnzoo.data.corpus import Splits, load_corpus
from attnzoo.data.stories import NIL, Stories, StoryPlan, StoryQuestion, Words, read_stories
from attnzoo.errors import UserError
from attnzoo.models import model_class
from attnzoo.plotting import Figure, WeightPanel, weight_panels
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.prediction import Evaluation, Prediction, PredictSettings
from attnzoo.tasks.run_file import RunFile
from attnzoo.tasks.task import Batch, Task

WORDS = RunFile("words.json", Words.read, Words.write)
CHUNK = 256
"""Most questions that are answered together."""


class StoriesTask(Task):
    """Questions on stories (Sukhbaatar et al. 2015, section 4).

    The answer is one word of the vocabulary of training. A supporting sentence counts as found if
    it has the largest weight in some hop.
    """

    unit = "questions"
    best = ("nll", "min")
    files = types.MappingProxyType({"words": WORDS})
    predicts = "files of bAbI's format"

    def __init__(self, config: ExperimentConfig, words: Words):
        super().__init__(config)
        self.words = words
        model: Any = config.model
        self.memory: int = model.memory
        self.counts: dict[str, int] = {}

    @classmethod
    def read(cls, config: ExperimentConfig) -> Splits[Stories]:
        """Read the stories of the config."""
        return load_corpus(config.data)

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Take the words of the training part."""
        return known or {"words": Words.of(data.train)}

    def take(self, data: Any) -> None:
        """Make the plans of the parts."""
        self.data_fingerprint = data.fingerprint()
        self.train = self.plan(data.train, shuffle=True)
        self.validation = self.plan(data.validation, shuffle=False)
        self.test = self.plan(data.test, shuffle=False) if len(data.test) else None
        self.counts = {part: len(getattr(data, part)) for part in ("train", "validation", "test")}

    def open_part(self, data: Any, part: str) -> Plan:
        """Return the batches of one part."""
        stories = getattr(data, part)
        self.data_fingerprint = stories.fingerprint()
        return self.plan(stories, shuffle=False)

    def plan(self, stories: Stories, *, shuffle: bool) -> StoryPlan:
        """Return the batches of one part, those of training with empty memories."""
        training = self.config.training
        plan = StoryPlan(
            stories,
            self.words,
            training.batch_size,
            self.memory,
            seed=training.seed,
            shuffle=shuffle,
            time_noise=self.settings.time_noise if shuffle else 0.0,
            linear_epochs=self.settings.linear_start if shuffle else 0,
        )
        if plan.cut:
            self.notes.append(
                f"{plan.cut:,} of {len(stories):,} stories are longer than "
                f"model.memory={self.memory}: their latest sentences are read"
            )
        return plan

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the model of the config."""
        return model_class(self.config.model)(self.config.model, len(self.words), rngs=rngs)

    def introduction(self) -> str:
        """Describe the number of questions, words and memories."""
        plan: Any = self.train
        counts = ", ".join(f"{count:,} to {part}" for part, count in self.counts.items())
        return (
            f"questions: {counts}; {plan.steps_per_epoch} steps an epoch; {len(self.words)} words, "
            f"{plan.slots} memories"
        )

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the cross-entropy of the answer, mean over the questions."""
        smoothing = self.config.training.label_smoothing if rngs is not None else 0.0
        logits = read(model, batch, rngs=rngs)
        labels, counted = jnp.asarray(batch["labels"]), jnp.asarray(batch["counted"])
        return mean_loss(logits, labels, counted, smoothing)

    def measure(self, model: Any, batch: Batch) -> Sums:
        """Return the sums of a validation batch, with the supporting sentences that were found."""
        logits, maps = read(model, batch, capture=True)
        labels, counted = jnp.asarray(batch["labels"]), jnp.asarray(batch["counted"])
        _, sums = mean_loss(logits, labels, counted)
        supports = jnp.asarray(batch["supports"])
        found = supports & found_memories(maps)
        return sums | {
            "supports": jnp.sum(supports).astype(jnp.float32),
            "found": jnp.sum(found).astype(jnp.float32),
        }

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the loss, the accuracy, and the share of supporting sentences found."""
        count = max(sums["count"], 1.0)
        scores = {"nll": sums["nll"] / count, "accuracy": sums["correct"] / count}
        if sums.get("supports"):
            scores["supports_found"] = sums["found"] / sums["supports"]
        return scores

    def describe(self, scores: Mapping[str, float]) -> str:
        """Format validation scores in one line."""
        told = f"loss {scores['nll']:.4f}, error {1 - scores['accuracy']:.1%}"
        if "supports_found" in scores:
            told += f", supporting sentences with the largest weight {scores['supports_found']:.1%}"
        return told

    def answers(self, model: Any, plan: StoryPlan) -> list[tuple[int, float, np.ndarray]]:
        """Return word, probability and weights ``K M`` of each question, in their order.

        Column m of the weights is the m-th latest sentence.
        """
        graph, state = nnx.split(model)
        found: dict[int, tuple[int, float, np.ndarray]] = {}
        for batch in plan.batches():
            answer, probability, weights = (
                np.asarray(x) for x in jax.device_get(_read(graph, state, self.inputs(batch)))
            )
            for place, row in enumerate(batch["rows"].tolist()):
                if row >= 0:
                    found[row] = int(answer[place]), float(probability[place]), weights[place]
        return [found[row] for row in range(len(plan.stories))]

    def evaluate(self, model: Any, part: str, plan: Any, settings: PredictSettings) -> Evaluation:
        """Return error and supporting sentences found by the kind of the questions."""
        rows: dict[str, list[tuple[bool, int, int]]] = collections.defaultdict(list)
        answers = []
        for one, (number, _, weights) in zip(
            plan.stories.items, self.answers(model, plan), strict=True
        ):
            answers.append(self.words.name(number))
            ages = {len(one.sentences) - 1 - i for i in one.supports}
            found = ages & set(weights.argmax(axis=1).tolist())
            rows[one.task].append((answers[-1] != one.answer, len(found), len(ages)))
        by_task, lines = {}, []
        for name, some in sorted(rows.items()):
            wrong, found, wanted = (sum(column) for column in zip(*some, strict=True))
            by_task[name] = {"questions": len(some), "error": wrong / len(some)}
            line = f"{name}: {len(some):,} questions, error {wrong / len(some):.1%}"
            if wanted:
                by_task[name]["supports_found"] = found / wanted
                line += f", supporting sentences with the largest weight {found / wanted:.1%}"
            lines.append(line)
        return Evaluation({"by_task": by_task}, tuple(lines), {"answers.txt": _lines(answers)})

    def predict(
        self, model: Any, inputs: Sequence[Path], settings: PredictSettings
    ) -> Iterator[Prediction]:
        """Yield the answer to every question of files of bAbI's format."""
        for path in inputs:
            if str(path) == "-":
                raise UserError(f"-: standard input has no stories; wanted {self.predicts}")
            asked = list(read_stories(path, settings.encoding))
            for first in range(0, len(asked), CHUNK):
                yield from self._predict(model, asked[first : first + CHUNK], settings)

    def _predict(
        self, model: Any, asked: Sequence[StoryQuestion], settings: PredictSettings
    ) -> Iterator[Prediction]:
        usable = [one for one in asked if not one.problem]
        found: Iterator[tuple[int, float, np.ndarray]] = iter(())
        if usable:
            plan = StoryPlan(
                Stories(usable),
                self.words,
                settings.batch_size or self.config.training.batch_size,
                self.memory,
                shuffle=False,
            )
            found = iter(self.answers(model, plan))
        for one in asked:
            if one.problem:
                yield Prediction(one.place, "", problem=one.problem)
                continue
            number, probability, weights = next(found)
            answer = self.words.name(number)
            count = min(len(one.sentences), weights.shape[1])
            by_sentence = weights[:, :count][:, ::-1]
            record = {
                "question": one.text,
                "answer": answer,
                "probability": probability,
                "sentences": [" ".join(words) for words in one.sentences[-count:]],
                "weights": by_sentence.astype(float).round(4).tolist(),
            }
            if one.answer:
                record |= {"wanted": one.answer}
            draw: Callable[[], Figure] = functools.partial(picture, one, answer, by_sentence)
            yield Prediction(one.place, answer, record, draw)


def picture(one: StoryQuestion, answer: str, weights: Float[np.ndarray, "K M"]) -> Figure:
    """Draw the weights of each sentence in each hop; supporting sentences have a star."""
    hops, count = weights.shape
    first = len(one.sentences) - count
    rows = [
        f"{'* ' if first + i in one.supports else ''}{' '.join(words)}"
        for i, words in enumerate(one.sentences[first:])
    ]
    title = f"{one.text}  {answer}"
    columns = [f"hop {hop + 1}" for hop in range(hops)]
    return weight_panels([WeightPanel(weights.T, rows, columns, title)], digits=2)


def read(model: Any, batch: Batch, **more: Any) -> Any:
    """Return the output of a model for a batch."""
    inputs = {name: jnp.asarray(batch[name]) for name in ("valid", "linear")}
    stories, question = jnp.asarray(batch["stories"]), jnp.asarray(batch["question"])
    return model(stories, question, **inputs, **more)


def found_memories(maps: Mapping[str, Float[Array, "B 1 1 M"]]) -> Any:
    """Return True for the memories ``B M`` that have the largest weight in some hop."""
    weights = jnp.stack([one[:, 0, 0] for one in maps.values()])
    best = jnp.argmax(weights, axis=-1)
    return jnp.any(jnp.arange(weights.shape[-1])[None, None] == best[..., None], axis=0)


@functools.partial(jax.jit, static_argnums=0)
def _read(graph: Any, state: Any, batch: Any) -> tuple[Array, Array, Array]:
    logits, maps = read(nnx.merge(graph, state), batch, capture=True)
    # Neither no word nor an unknown one is an answer.
    known = jnp.arange(logits.shape[1]) > NIL + 1
    logits = jnp.where(known[None], logits.astype(jnp.float32), -jnp.inf)
    weights = jnp.stack([one[:, 0, 0] for one in maps.values()], axis=1)
    chances = jax.nn.softmax(logits)
    return jnp.argmax(logits, axis=1), jnp.max(chances, axis=1), weights


def _lines(texts: Sequence[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
