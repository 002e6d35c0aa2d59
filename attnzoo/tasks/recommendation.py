"""Sequential recommendation: the next item of a user's history, and its rank among others."""

import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.corpus import Splits
from attnzoo.data.interactions import (
    Histories,
    HistoryPlan,
    Items,
    known_items,
    load_interactions,
    padded,
)
from attnzoo.models import model_class
from attnzoo.tasks.losses import Sums, label_losses
from attnzoo.tasks.run_file import RunFile
from attnzoo.tasks.task import Batch, Task

ITEMS = RunFile("items.json", Items.read, Items.write)
DEPTHS = (5, 10)
ROWS = 64
"""Number of histories in one batch of recommendations."""


class RecommendationTask(Task):
    """Next-item prediction with leave-one-out parts (Kang and McAuley 2018, section IV).

    Scores are the hit rate (HR) and the normalised discounted cumulative gain (NDCG) at 5 and 10:
    with one item to find, 1 and 1 / log2(rank + 1) if its rank, from 1, is at most that, else 0.
    It is ranked among all items, among those that the history lacks ("unseen"), and among
    ``task.negatives`` of these ("sampled"); those that score as high are ranked before it. An item
    that does not occur in the training part is not known: it is left out of histories, and not
    found where it is to be.
    """

    unit = "items"
    best = ("unseen_ndcg@10", "max")
    files = types.MappingProxyType({"items": ITEMS})

    def __init__(self, config: ExperimentConfig, items: Items):
        super().__init__(config)
        self.items = items
        self.names = items.names
        self.counts: dict[str, int] = {}

    @classmethod
    def read(cls, config: ExperimentConfig) -> Splits[Histories]:
        """Read the table of interactions."""
        return load_interactions(config.data)

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Take the items of the training part."""
        return known or {"items": known_items(data.train)}

    def take(self, data: Splits[Histories]) -> None:
        """Make the plans of the parts; count the items that the model cannot know."""
        train = data.train.numbered(self.items)
        self.counts = {"users": len(train), "train": int(train.used().sum())}
        self.train = self.plan(train, shuffle=True)
        scored = [self.open_part(data, part) for part in ("validation", "test")]
        self.validation, self.test = scored
        self.data_fingerprint = data.fingerprint()
        lost = sum(int((plan.histories.last() < 0).sum()) for plan in scored)
        if lost:
            self.notes.append(
                f"{lost:,} of {2 * len(data.train):,} items to predict do not occur in the "
                "training part: they count as not found"
            )

    def open_part(self, data: Splits[Histories], part: str) -> HistoryPlan:
        """Return the batches of one part to score, and set ``data_fingerprint``."""
        histories = getattr(data, part).numbered(self.items)
        self.data_fingerprint = histories.fingerprint()
        return self.plan(histories, shuffle=False)

    def plan(self, histories: Histories, *, shuffle: bool) -> HistoryPlan:
        """Return the batches of one part."""
        settings = self.config.training
        binary = int(self.settings.loss == "binary")
        return HistoryPlan(
            histories,
            settings.batch_size,
            self.config.model.longest or settings.max_length,
            negatives=binary if shuffle else self.settings.negatives,
            last_only=not shuffle,
            windows=shuffle and self.settings.windows == "all",
            seed=settings.seed if shuffle else 0,
        )

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the model of the config, with the items as its vocabulary."""
        model = model_class(self.config.model)
        return model(self.config.model, len(self.items), rngs=rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the loss of ``task.loss``, mean over the items to predict.

        Binary: -log s(r) - log(1 - s(r')) with the sigmoid s, the score r of the next item and the
        score r' of the drawn one (Kang and McAuley 2018, section III-E).
        """
        targets, counted = jnp.asarray(batch["targets"]), jnp.asarray(batch["counted"])
        states, _ = model.states(
            jnp.asarray(batch["tokens"]), valid=jnp.asarray(batch["valid"]), rngs=rngs
        )
        if self.settings.loss == "binary":
            drawn = jnp.asarray(batch["negatives"])[..., 0]
            real, there = counted.astype(jnp.float32), (drawn >= 0).astype(jnp.float32)
            losses = real * jax.nn.softplus(-_products(model, states, targets))
            losses += real * there * jax.nn.softplus(_products(model, states, drawn))
            nll = losses
        else:
            smoothing = self.config.training.label_smoothing if rngs is not None else 0.0
            logits = model.items.logits(states)
            losses, nll = label_losses(logits, targets, counted, smoothing)
        count = jnp.sum(counted).astype(jnp.float32)
        sums = {"nll": jnp.sum(nll), "count": count, "weight": count}
        return jnp.sum(losses) / jnp.maximum(count, 1.0), sums

    def measure(self, model: Any, batch: Batch) -> Sums:
        """Return the sums of a validation batch, whose last items are to be found."""
        targets, counted = jnp.asarray(batch["targets"]), jnp.asarray(batch["counted"])
        scores = next_scores(model, jnp.asarray(batch["tokens"]), jnp.asarray(batch["valid"]))
        V = scores.shape[1]
        found = counted & (targets >= 0)
        place = jnp.maximum(targets, 0)
        _, nll = label_losses(scores, place, found)
        own = jnp.take_along_axis(scores, place[:, None], axis=1)
        rivals = jnp.arange(V)[None] != place[:, None]
        unseen = rivals & ~_members(jnp.asarray(batch["history"]), V)
        drawn = jnp.asarray(batch["negatives"])
        sampled = jnp.take_along_axis(scores, jnp.maximum(drawn, 0), axis=1)
        sums = {
            "nll": jnp.sum(nll),
            "count": jnp.sum(counted).astype(jnp.float32),
            "known": jnp.sum(found).astype(jnp.float32),
        }
        for name, others, real in (
            ("", scores, rivals),
            ("unseen_", scores, unseen),
            ("sampled_", sampled, drawn >= 0),
        ):
            # ~(<) rather than >=: what is not a number comes first.
            rank = jnp.sum(~(others < own) & real, axis=1)
            gain = 1 / jnp.log2(rank.astype(jnp.float32) + 2)
            for depth in DEPTHS:
                hit = (found & (rank < depth)).astype(jnp.float32)
                sums[f"{name}hr@{depth}"] = jnp.sum(hit)
                sums[f"{name}ndcg@{depth}"] = jnp.sum(hit * gain)
        return sums

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the loss, and the means of the ranking scores where there are any."""
        count = max(sums["count"], 1.0)
        ranking = {name: value / count for name, value in sums.items() if "@" in name}
        return {"nll": sums["nll"] / max(sums.get("known", count), 1.0), **ranking}

    def describe(self, scores: Mapping[str, float]) -> str:
        """Format validation scores in one line."""
        told = [f"loss {scores['nll']:.4f}"]
        for name, among in (
            ("unseen_", "unseen items"),
            ("", "all"),
            ("sampled_", f"{self.settings.negatives} sampled"),
        ):
            hr, ndcg = (
                " ".join(f"{scores[f'{name}{kind}@{depth}']:.3f}" for depth in DEPTHS)
                for kind in ("hr", "ndcg")
            )
            told.append(f"among {among}: HR {hr}, NDCG {ndcg}")
        return f"{'; '.join(told)} (at {' and '.join(map(str, DEPTHS))})"

    def introduction(self) -> str:
        """Describe the number of users and items."""
        assert self.train is not None
        return (
            f"{self.counts['users']:,} users with {self.counts['train']:,} interactions to train "
            f"on, {self.train.steps_per_epoch} steps an epoch; {len(self.items):,} items"
        )

    def recommend(
        self,
        model: nnx.Module,
        histories: Sequence[Sequence[int] | np.ndarray],
        count: int,
        *,
        seen: bool = False,
    ) -> list[list[tuple[int, float]]]:
        """Return the ``count`` items with the highest scores for each history, best first.

        A history is the numbers of known items, oldest first; ``seen`` lets its own items be
        recommended. An empty history has no recommendations. Scores are products of the model's
        state and the item's embedding.
        """
        longest = self.config.model.longest
        assert longest is not None
        graph, state = nnx.split(model)
        best: list[list[tuple[int, float]]] = []
        for first in range(0, len(histories), ROWS):
            some = [np.asarray(one, np.int32) for one in histories[first : first + ROWS]]
            rows = [*some, *[np.zeros(0, np.int32)] * (ROWS - len(some))]
            scores = np.asarray(_scores(graph, state, *padded(rows, longest)), np.float32)
            for history, row in zip(some, scores):
                barred = np.zeros(0, np.int32) if seen else history
                allowed = np.setdiff1d(np.arange(row.size), barred)
                order = allowed[np.argsort(-row[allowed], kind="stable")[:count]]
                best.append([(int(i), float(row[i])) for i in order] if len(history) else [])
        return best


def next_scores(
    model: Any, tokens: Int[Array, "B T"], valid: Bool[Array, "B T"]
) -> Float[Array, "B V"]:
    """Return the scores of all items after the last item of histories padded on the left."""
    states, _ = model.states(tokens, valid=valid)
    return model.items.logits(states[:, -1]).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _scores(graph: Any, state: Any, tokens: Array, valid: Array) -> Array:
    return next_scores(nnx.merge(graph, state), tokens, valid)


def _products(model: Any, states: Float[Array, "B T D"], items: Int[Array, "B T"]) -> Array:
    """Return the product of each state with the embedding of its item, in float32."""
    chosen = model.items(jnp.maximum(items, 0))
    return jnp.einsum("btd,btd->bt", states, chosen, preferred_element_type=jnp.float32)


def _members(items: Int[Array, "B H"], V: int) -> Bool[Array, "B V"]:
    """Return True where an item is among the numbers of its row; -1 is none."""
    rows = jnp.arange(items.shape[0])[:, None]
    places = jnp.where(items < 0, V, items)
    return jnp.zeros((items.shape[0], V), bool).at[rows, places].set(True, mode="drop")
