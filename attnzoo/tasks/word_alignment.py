"""Word alignment as a task: an encoder learns the links of a teacher, or its own."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.batching import BatchPlan
from attnzoo.data.parallel import PairData
from attnzoo.models.aligner import WordScores
from attnzoo.tasks.alignment_objectives import identification_loss, masked_loss
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.pair_task import PairTask
from attnzoo.tasks.task import Batch
from attnzoo.tasks.teacher import BACKWARD, FORWARD, LinkedPlan, TeacherLinks


class WordAlignmentTask(PairTask):
    """Alignment of the words of sentence pairs, taught by links of the training pairs."""

    unit = "words"
    best = ("aer", "min")

    @classmethod
    def teacher_of(cls, config: ExperimentConfig) -> Any:
        """Return the settings of the teacher."""
        task: Any = config.task
        return task.teacher

    def open_part(self, data: PairData, part: str) -> LinkedPlan:
        """Return the batches of one part, with the words of the pairs and their reference links.

        These links score and choose, and do not teach. Without them the two directions are scored
        by their agreement.
        """
        plan, corpus = super().open_part(data, part), self.corpus_of(data, part)
        assert isinstance(plan, BatchPlan)
        links = None
        if corpus.links is not None:
            links = TeacherLinks.of(
                [set(pair.possible) for pair in corpus.links],
                [set(pair.sure) for pair in corpus.links],
            )
        return LinkedPlan(plan, corpus, self.both, links)

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the aligner of the config, with the head that identifies pairs if it learns to."""
        model: Any = super().model(rngs)
        if self.settings.identification:
            model.add_pair_head(rngs)
        return model

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the loss, and sums for scores.

        The loss is the mean cross-entropy of the links of both directions, with the objectives of
        ``attnzoo.tasks.alignment_objectives`` in training.
        """
        loss, sums = self._alignment_loss(model, batch, rngs)
        if rngs is None:
            return loss, sums
        for name, more in (
            ("masked", lambda: masked_loss(model, batch, self.settings.masked_share, rngs)),
            ("identification", lambda: identification_loss(model, batch, rngs)),
        ):
            if weight := getattr(self.settings, name):
                total, count = more()
                loss = loss + weight * total / jnp.maximum(count, 1.0)
                sums |= {f"{name}_nll": total, f"{name}_count": count}
        return loss, sums

    def _alignment_loss(
        self, model: Any, batch: Batch, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, ""], Sums]:
        found = self.score(model, batch, rngs)
        forward, backward = found.log_probs()
        own = own_links(forward, backward, found, getattr(self.settings.teacher, "threshold", 0.5))
        if self.settings.teacher.kind == "own":
            return self._learn(found, own, own, null=False)
        bits = jnp.asarray(batch["links"])
        return self._learn(found, bits & FORWARD > 0, bits & BACKWARD > 0, null=True)

    def score(self, model: Any, batch: Batch, rngs: nnx.Rngs | None = None) -> WordScores:
        """Return the model's scores of all pairs of words of a batch."""
        names = "source", "target", "source_words", "target_words"
        source, target, *words = (jnp.asarray(batch[name]) for name in names)
        return model(source, target[:, 1:], *words, rngs=rngs)

    def _learn(
        self,
        found: WordScores,
        forward: Bool[Array, "B T S"],
        backward: Bool[Array, "B T S"],
        *,
        null: bool,
    ) -> tuple[Float[Array, ""], Sums]:
        log_forward, log_backward = found.log_probs()
        swapped = jnp.swapaxes(backward, 1, 2)
        total, count = jnp.float32(0), jnp.float32(0)
        for links, logs, words in (
            (forward, log_forward, found.target),
            (swapped, log_backward, found.source),
        ):
            nll, words = link_losses(logs, links, words, null=null)
            total, count = total + jnp.sum(nll), count + jnp.sum(words)
        sums = {"nll": total, "count": count, "weight": count}
        loss = total / jnp.maximum(count, 1.0)
        if self.settings.consistency > 0:
            agreed = jnp.exp(log_forward[:, :, :-1] + jnp.swapaxes(log_backward[:, :, :-1], 1, 2))
            agreed = jnp.where(pairs_of(found), agreed, 0.0)
            lengths = [jnp.sum(w, axis=1).astype(jnp.float32) for w in (found.source, found.target)]
            share = jnp.sum(agreed, axis=(1, 2)) / jnp.maximum(jnp.minimum(*lengths), 1.0)
            real = jnp.sum(lengths[0] > 0).astype(jnp.float32)
            loss = loss - self.settings.consistency * jnp.sum(share) / jnp.maximum(real, 1.0)
        return loss, sums

    def measure(self, model: Any, batch: Batch) -> Sums:
        """Return the sums of a validation batch, with the counts of the alignment error rate."""
        found = self.score(model, batch)
        forward, backward = found.log_probs()
        links = chosen_links(forward, backward, found)
        if "links" in batch:
            bits = jnp.asarray(batch["links"])
            possible, sure = bits & FORWARD > 0, bits & BACKWARD > 0
        else:
            best = jnp.argmax(forward[:, :, :-1], axis=2)[:, :, None]
            possible = sure = (best == jnp.arange(forward.shape[2] - 1)[None, None]) & pairs_of(
                found
            )
            turned = jnp.argmax(backward[:, :, :-1], axis=2)[:, None, :]
            links = (turned == jnp.arange(backward.shape[2] - 1)[None, :, None]) & pairs_of(found)
        if self.settings.restrict:
            known = jnp.any(possible, axis=2)[:, :, None] & jnp.any(possible, axis=1)[:, None, :]
            links = links & known
        sums = self._learn(found, possible, possible, null=False)[1]
        counts = {"links": links, "sure": sure, "hit_sure": links & sure}
        counts["hit_possible"] = links & possible
        return sums | {name: jnp.sum(x).astype(jnp.float32) for name, x in counts.items()}

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the loss per word, and of validation the alignment error rate."""
        scores = {"nll": sums["nll"] / max(sums["count"], 1.0)}
        for name in ("masked", "identification"):
            if f"{name}_count" in sums:
                scores[f"{name}_loss"] = sums[f"{name}_nll"] / max(sums[f"{name}_count"], 1.0)
        if "links" in sums:
            hits = sums["hit_sure"] + sums["hit_possible"]
            scores["aer"] = 1 - hits / max(sums["links"] + sums["sure"], 1.0)
        return scores

    def describe(self, scores: Mapping[str, float]) -> str:
        """Format validation scores in one line."""
        return f"loss {scores['nll']:.4f}, alignment error rate {scores['aer']:.4f}"


def link_losses(
    log_probs: Float[Array, "B T W"],
    links: Bool[Array, "B T S"],
    words: Bool[Array, "B T"],
    *,
    null: bool,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Return the cross-entropy of each word's links, spread evenly, and which words count.

    A word without links learns the null word if ``null``; else it does not count.
    """
    linked = jnp.any(links, axis=2)
    wanted = jnp.concatenate([links, ~linked[:, :, None]], axis=2).astype(jnp.float32)
    wanted = wanted / jnp.sum(wanted, axis=2, keepdims=True)
    counted = (words if null else words & linked).astype(jnp.float32)
    nll = -jnp.sum(jnp.where(wanted > 0, wanted * log_probs, 0.0), axis=2)
    return nll * counted, counted


def pairs_of(found: WordScores) -> Bool[Array, "B T S"]:
    """Return True for each pair of words that exist."""
    return found.target[:, :, None] & found.source[:, None, :]


def product(
    forward: Float[Array, "B T W"], backward: Float[Array, "B S U"]
) -> Float[Array, "B T S"]:
    """Return the geometric mean of the probabilities of both directions."""
    return jnp.exp((forward[:, :, :-1] + jnp.swapaxes(backward[:, :, :-1], 1, 2)) / 2)


def chosen_links(
    forward: Float[Array, "B T W"], backward: Float[Array, "B S U"], found: WordScores
) -> Bool[Array, "B T S"]:
    """Return the pairs whose product of probabilities is the largest of both their words.

    They are the links of rule "mutual" of ``attnzoo.alignment.aligner.links_from_posteriors``.
    """
    both = jnp.where(pairs_of(found), product(forward, backward), 0.0)
    best = jnp.max(both, axis=2, keepdims=True), jnp.max(both, axis=1, keepdims=True)
    return (both > 0) & (both == best[0]) & (both == best[1])


def own_links(
    forward: Float[Array, "B T W"],
    backward: Float[Array, "B S U"],
    found: WordScores,
    threshold: float,
) -> Bool[Array, "B T S"]:
    """Return the pairs whose probability exceeds ``threshold`` in both directions.

    Dou and Neubig 2021, equation 2; without a gradient.
    """
    turned = jnp.swapaxes(backward[:, :, :-1], 1, 2)
    likely = jnp.minimum(forward[:, :, :-1], turned) > jnp.log(threshold)
    return jax.lax.stop_gradient(likely & pairs_of(found))
