"""Summarisation task: sources and their summaries, the coverage loss, ROUGE, and predictions."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo import plotting
from attnzoo.data.batching import BatchPlan
from attnzoo.data.files import cut_words, read_record
from attnzoo.data.parallel import PairData
from attnzoo.tasks import rouge
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.prediction import CHUNK, Evaluation, Prediction, PredictSettings, named_lines
from attnzoo.tasks.task import Batch, Plan
from attnzoo.tasks.translation import Translation, Translator, padded_length, translation_loss
from attnzoo.tasks.translation_task import TranslationTask

RECORDS = (".jsonl", ".jsonl.gz")
"""Ends of the names of files whose lines are JSON."""


def coverage_loss(weights: Float[Array, "B N T S"], real: Bool[Array, "B T"]) -> Float[Array, " B"]:
    """Return the sum over the steps of each target of sum_s min(a_ts, c_ts) (See et al. 2017).

    a are the weights, the mean of several heads, and c their sum over former steps (equation 12).
    ``real`` is False at padding.
    """
    share = jnp.mean(weights, axis=1).astype(jnp.float32)
    before = jnp.cumsum(share, axis=1) - share
    steps = jnp.sum(jnp.minimum(share, before), axis=2)
    return jnp.sum(jnp.where(real, steps, jnp.zeros_like(steps)), axis=1)


class CoveragePlan(Plan):
    """Batches of a plan with ``coverage``, float32 ``B``: the weight of each row's coverage loss.

    It is 0 before the step ``start``.
    """

    def __init__(self, plan: BatchPlan, weight: float, start: int):
        self.plan, self.weight, self.start = plan, weight, start
        self.pairs, self.batch_size = plan.pairs, plan.batch_size
        self.buckets, self.target_buckets = plan.buckets, plan.target_buckets

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that show all data once."""
        return self.plan.steps_per_epoch

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        """Return the batch of a step, or its ``rows``."""
        found = self.plan.batch(step, rows)
        weight = self.weight if step >= self.start else 0.0
        return {**found, "coverage": np.full(len(found["rows"]), weight, np.float32)}

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values."""
        return {**self.plan.fingerprint(), "coverage": [self.weight, self.start]}


class SummarisationTask(TranslationTask):
    """Summaries of texts: a translation into fewer words."""

    separate_lengths = True
    predicts = "texts: one a line, or .jsonl with the source field"
    predict_options = ("batch_size", "beam", "max_length")

    def take(self, data: PairData) -> None:
        """Tokenize the parts and make their plans, with the weights of the coverage loss."""
        super().take(data)
        plan, settings = self.train, self.settings
        if settings.coverage_weight and isinstance(plan, BatchPlan):
            self.train = CoveragePlan(plan, settings.coverage_weight, settings.coverage_from)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the ``translation_loss`` of the config, and the coverage loss where it counts.

        The coverage loss is in the sums wherever the config has a weight for it, but in the loss
        only of training batches.
        """
        if not self.settings.coverage_weight:
            return super().loss(model, batch, rngs=rngs)
        settings, target = self.config.training, jnp.asarray(batch["target"])
        logits, weights = model(batch["source"], target[:, :-1], rngs=rngs, return_weights=True)
        loss, sums = translation_loss(
            model,
            batch,
            label_smoothing=settings.label_smoothing,
            per=settings.loss_per,
            logits=logits,
            pad=self.config.model.padding,
        )
        each = coverage_loss(weights, target[:, 1:] != self.config.model.padding)
        sums["coverage"] = jnp.sum(each)
        if "coverage" in batch:
            weighted = jnp.sum(each * batch["coverage"])
            loss = loss + weighted / jnp.maximum(sums["weight"], 1.0)
        return loss, sums

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the scores, and the coverage loss per token if the config has a weight for it."""
        scores = super().scores(sums)
        if "coverage" in sums:
            scores["coverage_loss"] = sums["coverage"] / max(sums["count"], 1.0)
        return scores

    def evaluate(self, model: Any, part: str, plan: Plan, settings: PredictSettings) -> Evaluation:
        """Return ROUGE of the summaries of a part, and of baselines; and the summaries.

        A source that is there several times is summarised once, against all its references.
        """
        _, data = self.read_part(part)
        corpus = self.corpus_of(data, part)
        references: dict[str, list[str]] = {}
        for source, target in zip(corpus.source, corpus.target, strict=True):
            references.setdefault(source, []).append(target)
        sources = list(references)
        translator = self.translator(model, batch_size=settings.batch_size)
        found = self._summaries(translator, sources, settings)
        texts = ["" if one is None else one.text for one in found]
        scores = rouge.score_summaries(
            texts, sources, list(references.values()), corpus.target_language
        )
        lines = rouge.describe(scores)
        unread = sum(one is None for one in found)
        if unread:
            lines = (f"{unread:,} sources too long or empty, scored as an empty summary", *lines)
        exact = sum(
            text in known for text, known in zip(texts, references.values(), strict=True)
        ) / len(texts)
        return Evaluation(
            {**scores, "exact_match": exact, "unread": unread},
            (*lines, f"equal to a reference: {exact:.1%}"),
            {"hypotheses.txt": "\n".join(texts) + "\n"},
        )

    def predict(
        self, model: Any, inputs: Sequence[Path], settings: PredictSettings
    ) -> Iterator[Prediction]:
        """Yield a summary for every line of the files."""
        translator = self.translator(model, batch_size=settings.batch_size)
        data: Any = self.config.data
        most = getattr(data, "source_words", None)
        field = getattr(data, "source_field", "source")
        graph, state = nnx.split(model)
        p_gen = jax.jit(lambda state, *pair: nnx.merge(graph, state).p_gen(*pair))
        for path in inputs:
            named = named_lines(path, settings.encoding)
            while chunk := list(islice(named, CHUNK)):
                texts, problems = [], []
                for _, line in chunk:
                    text, problem = _read(line, field if path.name.endswith(RECORDS) else None)
                    texts.append(cut_words(text, most))
                    problems.append(problem)
                found = self._summaries(translator, texts, settings)
                writing = _p_gen(functools.partial(p_gen, state), translator, found)
                for (name, _), text, one, problem, shares in zip(
                    chunk, texts, found, problems, writing, strict=True
                ):
                    if one is None:
                        words = len(text.split())
                        why = problem or f"{words:,} words are too long (see data.source_words)"
                        yield Prediction(name, "", {"summary": ""}, problem=why)
                    else:
                        yield _prediction(name, one, translator.word_matrix(one), shares)

    def _summaries(
        self, translator: Translator, texts: Sequence[str], settings: PredictSettings
    ) -> list[Translation | None]:
        decoding = self.config.decoding
        return translator.translate(
            texts,
            beam=settings.beam or decoding.beam,
            alpha=decoding.length_penalty,
            max_length=settings.max_length or translator.bounded(decoding.max_length),
        )


def _p_gen(
    compute: Callable[..., Any], translator: Translator, found: Sequence[Translation | None]
) -> list[np.ndarray | None]:
    """Return the probability to write each word of the summaries; None: there is no copying."""
    results: list[np.ndarray | None] = [None] * len(found)
    there = [(i, one) for i, one in enumerate(found) if one is not None and one.target.ids]
    size = translator.batch_size
    for start in range(0, len(there), size):
        rows = there[start : start + size]
        pairs = [translator.pair(one.source, one.target) for _, one in rows]
        sides = map(list, zip(*pairs, strict=True))
        shares = compute(*(translator.padded(s, padded_length(max(map(len, s)))) for s in sides))
        if shares is None:
            break
        for row, (i, one) in enumerate(rows):
            of_words = np.asarray(one.target.word_ids)
            steps = np.asarray(shares[row])[: len(of_words)]
            results[i] = np.bincount(of_words, steps) / np.maximum(np.bincount(of_words), 1)
    return results


def _read(line: str | None, field: str | None) -> tuple[str, str | None]:
    """Return the text of a line, or of a field of its JSON, and the reason why there is none."""
    if line is None:
        return "", "not in this encoding"
    if field is not None:
        try:
            line = "\n".join(read_record(line, [field])[0])
        except ValueError as error:
            return "", str(error)
    return line, None if line.strip() else "an empty text"


def _prediction(
    name: str,
    one: Translation,
    weights: Float[np.ndarray, "words source_words"],
    shares: Float[np.ndarray, " words"] | None,
) -> Prediction:
    words, sources = one.target.words, one.source.words
    read = []
    for number, word in enumerate(words):
        place = int(weights[number].argmax())
        about = {"word": word, "source": sources[place], "place": place}
        about["weight"] = round(float(weights[number, place]), 4)
        if shares is not None:
            about["p_gen"] = round(float(shares[number]), 4)
        read.append(about)
    record = {"summary": one.text, "log_prob": one.log_prob, "words": read}
    figure = functools.partial(plotting.copy_picture, weights, sources, words, shares)
    return Prediction(name, one.text, record, figure if words else None)
