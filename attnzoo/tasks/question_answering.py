"""Extractive question answering: the answer is a span of a document, or there is none."""

import dataclasses
import functools
import logging
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.batching import Plan
from attnzoo.data.corpus import Splits, load_corpus
from attnzoo.data.order import MAX_BUCKETS, most_buckets
from attnzoo.data.questions import (
    Question,
    QuestionPlan,
    Questions,
    is_json,
    read_questions,
    written_predictions,
)
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer
from attnzoo.errors import UserError
from attnzoo.models import model_class
from attnzoo.tasks.answer_scores import (
    answer_length,
    by_group,
    question_word,
    score_predictions,
    told,
)
from attnzoo.tasks.answers import Answer, picture
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.prediction import Evaluation, Prediction, PredictSettings, named_lines
from attnzoo.tasks.run_file import TOKENIZER
from attnzoo.tasks.task import Batch, Task

logger = logging.getLogger(__name__)

CHUNK = 256
"""Most questions whose windows are made before they are answered."""
WINDOW = 384
"""Largest number of tokens of a window where no training says another (Devlin et al. 2019)."""


class QuestionAnsweringTask(Task):
    """Extractive question answering (Devlin et al. 2019, sections 4.2 and 4.3).

    The loss is the mean of -log P of the first and of the last token of the answer, over the tokens
    of the document and the first one of the row, at which both are in a window without the answer.
    """

    unit = "windows"
    best = ("accuracy", "max")
    files = types.MappingProxyType({"tokenizer": TOKENIZER})
    tokenizer_fields = ("tokenizer",)
    predicts = "files of SQuAD's JSON, or lines: a question, a tab, a document"
    predict_options = ("batch_size", "max_length")

    def __init__(self, config: ExperimentConfig, tokenizer: TextTokenizer):
        super().__init__(config)
        self.tokenizer = tokenizer
        self.counts: dict[str, int] = {}
        if config.training.label_smoothing:
            raise UserError("training.label_smoothing: question_answering has none; wanted 0")

    @classmethod
    def read(cls, config: ExperimentConfig) -> Splits[Questions]:
        """Read the questions of the config."""
        return load_corpus(config.data)

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Train the tokenizer on the questions and documents, unless it is known."""
        if known:
            return known
        items = data.train.items
        texts = [*dict.fromkeys(one.document for one in items), *(one.text for one in items)]
        return {"tokenizer": build_tokenizer(config.tokenizer, texts)}

    def take(self, data: Any) -> None:
        """Cut the documents of the parts into windows and make their plans."""
        self.data_fingerprint = data.fingerprint()
        asked = data.train
        if not self.settings.no_answer:
            asked = Questions([one for one in asked.items if one.answers])
            left = len(data.train) - len(asked)
            if left:
                self.notes.append(
                    f"{left:,} training questions without an answer are left out "
                    "(task.no_answer=true takes them)"
                )
        if not len(asked):
            raise UserError("data: no training question has an answer")
        self.limit_buckets(len(asked))
        self.train = self.plan(asked, shuffle=True)
        self.validation = self.plan(data.validation, shuffle=False)
        self.test = self.plan(data.test, shuffle=False) if len(data.test) else None
        parts = {"train": asked, "validation": data.validation, "test": data.test}
        self.counts = {name: len(part) for name, part in parts.items()}

    def open_part(self, data: Any, part: str) -> Plan:
        """Return the windows of one part, padded to few lengths."""
        asked = getattr(data, part)
        self.data_fingerprint = asked.fingerprint()
        self.max_buckets = most_buckets(-(-len(asked) // self.config.training.batch_size))
        return self.plan(asked, shuffle=False)

    def plan(self, asked: Questions, *, shuffle: bool) -> QuestionPlan:
        """Return the batches of one part, windows of similar length together."""
        training, settings = self.config.training, self.settings
        plan = QuestionPlan(
            asked,
            self.tokenizer,
            training.batch_size,
            training.max_length,
            settings.stride,
            settings.max_question,
            training.buckets if shuffle else None,
            training.seed,
            shuffle,
            self.max_buckets or MAX_BUCKETS,
        )
        for count, what in (
            (plan.cut, f"questions cut to task.max_question={settings.max_question} tokens"),
            (plan.widened, "answers begin or end within a token, and were widened to whole tokens"),
            (plan.lost, "answers are longer than any window, and were not learnt"),
        ):
            if count:
                self.notes.append(f"{count:,} of {len(asked):,} {what}")
        return plan

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the model of the config, with the logits of start and end as its output."""
        config: Any = self.config.model
        if hasattr(config, "head"):
            config = dataclasses.replace(config, head="span")
        length, longest = self.config.training.max_length, config.longest
        if longest is not None and length > longest:
            raise ValueError(f"max_length={longest} is below training.max_length={length}")
        return model_class(config)(config, self.tokenizer.vocab_size, rngs=rngs)

    def introduction(self) -> str:
        """Describe the number of questions and windows, and the vocabulary."""
        plan: Any = self.train
        counts = ", ".join(f"{count:,} to {part}" for part, count in self.counts.items())
        return (
            f"questions: {counts}; {len(plan.windows):,} windows and {plan.steps_per_epoch} steps "
            f"an epoch; vocabulary of {self.tokenizer.vocab_size} ({self.tokenizer.kind})"
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the task's fingerprint with that of the tokenizer."""
        return super().fingerprint() | {"tokenizer": self.tokenizer.fingerprint()}

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the cross-entropy of both ends of the answers, mean over the windows."""
        logits = span_logits(model, batch, rngs)
        counted = jnp.asarray(batch["counted"])
        wanted = jnp.stack([jnp.asarray(batch["starts"]), jnp.asarray(batch["ends"])], axis=1)
        gold = jnp.take_along_axis(logits, wanted[:, None], axis=1)[:, 0]
        nll = jnp.mean(jax.nn.logsumexp(logits, axis=1) - gold, axis=1)
        nll = jnp.sum(jnp.where(counted, nll, 0))
        right = jnp.all(jnp.argmax(logits, axis=1) == wanted, axis=1) & counted
        count = jnp.sum(counted).astype(jnp.float32)
        correct = jnp.sum(right).astype(jnp.float32)
        sums = {"nll": nll, "count": count, "correct": correct, "weight": count}
        return nll / jnp.maximum(count, 1.0), sums

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the loss, and the share of windows whose two ends are right."""
        count = max(sums["count"], 1.0)
        return {"nll": sums["nll"] / count, "accuracy": sums["correct"] / count}

    def describe(self, scores: Mapping[str, float]) -> str:
        """Format validation scores in one line."""
        return f"loss {scores['nll']:.4f}, both ends right in {scores['accuracy']:.1%} of windows"

    def answers(self, model: Any, plan: QuestionPlan) -> list[Answer]:
        """Return the answer to each question of a plan, from the best of its windows."""
        graph, state = nnx.split(model)
        found: dict[int, list[tuple[int, Any]]] = defaultdict(list)
        for batch in plan.batches():
            spans = _best_spans(graph, state, self.inputs(batch), self.settings.max_answer)
            spans = [np.asarray(x) for x in jax.device_get(spans)]
            for place, row in enumerate(batch["rows"].tolist()):
                if row >= 0:
                    number = plan.windows[row].question
                    found[number].append((row, [x[place].item() for x in spans]))
        return [self._answer(plan, found[i]) for i in range(len(plan.questions))]

    def _answer(self, plan: QuestionPlan, windows: Sequence[tuple[int, Any]]) -> Answer:
        """Return the best answer of one question's windows: row, start, end, score, lse, null."""
        row, (start, end, score, _, _) = max(windows, key=lambda one: one[1][2])
        null = min(one[1][4] for one in windows)
        ends = self.settings.no_answer
        total = np.logaddexp.reduce([one[1][3] for one in windows] + [null] * ends)
        odds = null - score
        if not np.isfinite(score):  # a document without any token
            return Answer("", "", 0, 0, score, 0.0, odds, row, (0, 0))
        text, place = plan.text_of(plan.windows[row], start, end)
        return Answer(
            text="" if ends and odds > self.settings.threshold else text,
            span=text,
            start=place,
            end=place + len(text),
            score=score,
            probability=float(np.exp(score - total)),
            null_odds=odds,
            row=row,
            tokens=(start, end),
        )

    def evaluate(self, model: Any, part: str, plan: Any, settings: PredictSettings) -> Evaluation:
        """Return exact match and F1 as SQuAD's scripts do, also by question word and by length."""
        asked = plan.questions.items
        found = {one.id: a for one, a in zip(asked, self.answers(model, plan), strict=True)}
        predictions = {name: answer.text for name, answer in found.items()}
        odds = {name: answer.null_odds for name, answer in found.items()}
        if self.settings.no_answer:
            spans = {name: answer.span for name, answer in found.items()}
            scores = score_predictions(asked, spans, odds, self.settings.threshold)
        else:
            scores = score_predictions(asked, predictions)
        lines = [f"{len(asked):,} questions: {told(scores)}"]
        tables: dict[str, Any] = {}
        for name, key in (("question_word", question_word), ("answer_length", answer_length)):
            tables[f"by_{name}"] = rows = by_group(asked, predictions, key)
            lines += [f"by {name.replace('_', ' ')}:"] + [
                f"  {row[name]:>12} {row['questions']:6,}  exact {row['exact']:5.1f}  "
                f"F1 {row['f1']:5.1f}"
                for row in ({name: k, **v} for k, v in rows.items())
            ]
        files = {"predictions.json": written_predictions(predictions)}
        if self.settings.no_answer:
            files["null_odds.json"] = written_predictions(odds)
        return Evaluation({**scores, **tables}, tuple(lines), files)

    def predict(
        self, model: Any, inputs: Sequence[Path], settings: PredictSettings
    ) -> Iterator[Prediction]:
        """Yield an answer for every question of SQuAD's files, or of lines with tabs."""
        longest = self.config.model.longest
        trained = type(self.config) is ExperimentConfig
        length = settings.max_length or (
            self.config.training.max_length if trained else min(WINDOW, longest or WINDOW)
        )
        if longest is not None and length > longest:
            raise UserError(f"--max-length {length}: the model reads at most {longest} tokens")
        for some in _chunks(_asked(inputs, settings.encoding)):
            usable = [one for one in some if not one.problem]
            answers: Iterator[Answer] = iter(())
            if usable:
                plan = QuestionPlan(
                    Questions(usable),
                    self.tokenizer,
                    settings.batch_size or self.config.training.batch_size,
                    length,
                    self.settings.stride,
                    self.settings.max_question,
                    [*range(64, length, 64), length],
                    shuffle=False,
                )
                for row in plan.cut_rows:
                    logger.warning(
                        "%s: the question is longer than task.max_question=%d tokens; its end is "
                        "left out",
                        *(usable[row].place, self.settings.max_question),
                    )
                answers = iter(self.answers(model, plan))
            for one in some:
                if one.problem:
                    yield Prediction(one.place, "", {"id": one.id}, problem=one.problem)
                else:
                    answer = next(answers)
                    yield self._prediction(model, plan, one, answer)

    def _prediction(
        self, model: Any, plan: QuestionPlan, one: Question, answer: Answer
    ) -> Prediction:
        record = {
            "id": one.id,
            "question": one.text,
            "answer": answer.text,
            "start": answer.start if answer.text else None,
            "end": answer.end if answer.text else None,
            "score": answer.score,
            "probability": answer.probability,
        }
        if self.settings.no_answer:
            record |= {"no_answer": not answer.text, "null_odds": answer.null_odds}
            record |= {"best_span": answer.span}
        text = " ".join(answer.text.split())
        problem = None if answer.span else "no token of the document is known"
        draw = functools.partial(picture, model, plan, self.tokenizer, answer)
        return Prediction(one.place, text, record, draw if answer.span else None, problem)


def span_logits(model: Any, batch: Batch, rngs: nnx.Rngs | None = None) -> Float[Array, "B T 2"]:
    """Return float32 logits of start and end; -inf where the answer may not begin or end."""
    inputs = {name: jnp.asarray(batch[name]) for name in ("segments", "valid")}
    logits = model(jnp.asarray(batch["tokens"]), rngs=rngs, **inputs)
    inside = jnp.asarray(batch["document"])[:, :, None]
    return jnp.where(inside, logits.astype(jnp.float32), -jnp.inf)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _best_spans(
    graph: Any, state: Any, batch: Any, most: int
) -> tuple[Int[Array, "B"], Int[Array, "B"], Float[Array, "B"], Float[Array, "B"], Array]:
    return best_spans(span_logits(nnx.merge(graph, state), batch), batch["document"], most)


def best_spans(
    logits: Float[Array, "B T 2"], inside: Bool[Array, "B T"], most: int
) -> tuple[Int[Array, "B"], Int[Array, "B"], Float[Array, "B"], Float[Array, "B"], Array]:
    """Return first and last token, score, log-sum-exp of all spans, and score of no answer.

    A span has at most ``most`` tokens, all of the document; its score is the sum of its two logits
    (Devlin et al. 2019, section 4.2). That of having no answer is the sum at the first token.
    """
    T = logits.shape[1]
    place = jnp.arange(T)
    reach = place[None, :] - place[:, None]
    allowed = (reach >= 0) & (reach < most) & (place[:, None] > 0)
    allowed = allowed[None] & inside[:, :, None] & inside[:, None, :]
    scores = jnp.where(allowed, logits[:, :, None, 0] + logits[:, None, :, 1], -jnp.inf)
    flat = scores.reshape(scores.shape[0], -1)
    best = jnp.argmax(flat, axis=1)
    null = logits[:, 0, 0] + logits[:, 0, 1]
    lse = jax.nn.logsumexp(flat, axis=1)
    return best // T, best % T, jnp.max(flat, axis=1), lse, null


def _asked(inputs: Sequence[Path], encoding: str) -> Iterator[Question]:
    """Yield the questions of files: SQuAD's JSON, or lines with a question, a tab, a document."""
    for path in inputs:
        if is_json(path):
            for _, found in read_questions(path):
                yield from found
            continue
        for place, line in named_lines(path, encoding):
            text, tab, document = ("", "", "") if line is None else line.partition("\t")
            problem = ""
            if line is None:
                problem = f"not {encoding.upper()}"
            elif not tab:
                problem = "no tab; wanted a question, a tab, a document"
            elif not text.strip() or not document.strip():
                problem = "an empty document" if text.strip() else "no question"
            yield Question(place, text, document, (), place, problem=problem)


def _chunks(asked: Iterator[Question]) -> Iterator[list[Question]]:
    some: list[Question] = []
    for one in asked:
        some.append(one)
        if len(some) == CHUNK:
            yield some
            some = []
    if some:
        yield some
