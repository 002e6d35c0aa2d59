"""Decomposable attention: align the words of two sentences, compare aligned pairs, and sum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnzoo.attention.contract import ReturnWeights
from attnzoo.attention.facts import Facts
from attnzoo.attention.projection import Projection
from attnzoo.module import Module
from attnzoo.ops.padding import check_and_zero_padding
from attnzoo.ops.softmax import masked_softmax
from attnzoo.ops.weights import WeightRequest, select

Drop = Callable[[Array], Array]


class ReluMLP(Module):
    """Two linear layers, each after dropout and before ReLU."""

    def __init__(self, input_dim: int, width: int, *, rngs: nnx.Rngs):
        self.first = Projection(input_dim, width, use_bias=True, rngs=rngs)
        self.second = Projection(width, width, use_bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch D"], drop: Drop) -> Float[Array, "*batch F"]:
        return jax.nn.relu(self.second(drop(jax.nn.relu(self.first(drop(x))))))


class IntraSentenceAttention(Module):
    """Intra-sentence attention: [a_i ; a'_i] with a'_i a weighted mean of all words (section 3.4).

        a'_i = sum_j softmax_j(F_in(a_i) . F_in(a_j) + d_{i-j}) a_j

    d has one scalar for every signed distance up to ``max_distance``, and one that all larger
    distances share. It starts at 0, so that word order has no effect at first.
    """

    def __init__(self, input_dim: int, width: int, max_distance: int = 10, *, rngs: nnx.Rngs):
        if max_distance < 0:
            raise ValueError(f"max_distance={max_distance}; wanted a number >= 0")
        self.max_distance = max_distance
        self.transform = ReluMLP(input_dim, width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((2 * max_distance + 2,), jnp.float32))

    def distance_bias(self, length: int) -> Float[Array, "S S"]:
        """Return d_{i-j} of all pairs; all large distances share the last entry."""
        place = jnp.arange(length)
        distance = place[:, None] - place[None, :]
        near = jnp.abs(distance) <= self.max_distance
        index = jnp.where(near, distance + self.max_distance, 2 * self.max_distance + 1)
        return self.bias[...][index]

    def __call__(
        self, words: Float[Array, "B S D"], mask: Bool[Array, "B 1 1 S"], drop: Drop
    ) -> tuple[Float[Array, "B S F"], Float[Array, "B 1 S S"]]:
        """Return the words concatenated with their context (``F = 2 D``), and the weights."""
        hidden = self.transform(words, drop)
        logits = jnp.einsum("btd,bsd->bts", hidden, hidden)
        bias = self.distance_bias(words.shape[1]).astype(logits.dtype)[None]
        weights = masked_softmax((logits + bias)[:, None], mask)
        context = jnp.einsum("bnts,bsd->btd", weights.astype(words.dtype), words)
        return jnp.concatenate([words, context], axis=-1), weights


class DecomposableAttention(Module):
    """Attend, compare, aggregate, with MLPs F, G and H that see one word or one pair at a time.

    Parikh, Täckström, Das and Uszkoreit, EMNLP 2016 (arXiv 1606.01933), section 3:

        e_ij = F(a_i) . F(b_j)
        beta_i = sum_j softmax_j(e_ij) b_j;  alpha_j = sum_i softmax_i(e_ij) a_i
        v_1 = sum_i G([a_i ; beta_i]);  v_2 = sum_j G([b_j ; alpha_j]);  logits = W H([v_1 ; v_2])

    Both softmaxes use the same scores, along different axes. v_1 and v_2 are sums, not means:
    longer sentences give larger vectors. ``max_distance`` is the largest distance with a bias of
    its own in intra-sentence attention; None: no such attention, and word order has no effect.
    """

    facts = Facts(
        paper="Parikh et al. 2016",
        score="F(a) · F(b)",
        inputs=("co",),
        time="T S W",
        memory="T S",
    )

    def __init__(
        self,
        input_dim: int,
        width: int,
        num_classes: int,
        *,
        max_distance: int | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.intra = (
            None
            if max_distance is None
            else IntraSentenceAttention(input_dim, width, max_distance, rngs=rngs)
        )
        word_dim = input_dim if self.intra is None else 2 * input_dim
        self.attend = ReluMLP(word_dim, width, rngs=rngs)  # F
        self.compare = ReluMLP(2 * word_dim, width, rngs=rngs)  # G
        self.aggregate = ReluMLP(2 * width, width, rngs=rngs)  # H
        self.output = Projection(width, num_classes, use_bias=True, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        premise: Float[Array, "B T D"],
        hypothesis: Float[Array, "B S D"],
        premise_valid: Bool[Array, "B T"] | None = None,
        hypothesis_valid: Bool[Array, "B S"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        return_weights: ReturnWeights = False,
    ) -> Any:
        """Return logits ``B V`` of the relation between two sentences.

        ``..._valid`` is False at padding. ``rngs`` switches dropout on. ``return_weights`` adds a
        dict of weights: ``"premise"`` (``B 1 T S``, from each word of the premise to the
        hypothesis), ``"hypothesis"`` (``B 1 S T``), and with intra-sentence attention
        ``"premise/intra"`` and ``"hypothesis/intra"``; for a ``WeightRequest``, a report of each.
        """

        def drop(x: Array) -> Array:
            return self.dropout(x, deterministic=rngs is None, rngs=rngs)

        sides = {"premise": (premise, premise_valid), "hypothesis": (hypothesis, hypothesis_valid)}
        words, masks, maps = {}, {}, {}
        for name, (side, valid) in sides.items():
            valid = jnp.ones(side.shape[:2], bool) if valid is None else valid
            masks[name] = valid[:, None, None, :]
            words[name], _ = check_and_zero_padding(side, None, masks[name])
            if self.intra is not None:
                words[name], maps[f"{name}/intra"] = self.intra(words[name], masks[name], drop)
        hidden = [self.attend(words[name], drop) for name in sides]
        scores = jnp.einsum("btd,bsd->bts", *hidden)[:, None]

        vectors = []
        for name, other, logits in (
            ("premise", "hypothesis", scores),
            ("hypothesis", "premise", jnp.swapaxes(scores, 2, 3)),
        ):
            maps[name] = masked_softmax(logits, masks[other])
            share = maps[name].astype(words[other].dtype)
            aligned = jnp.einsum("bnts,bsd->btd", share, words[other])
            compared = self.compare(jnp.concatenate([words[name], aligned], axis=-1), drop)
            valid = jnp.swapaxes(masks[name][:, 0], 1, 2)  # padded words are not summed
            vectors.append(jnp.sum(jnp.where(valid, compared, jnp.zeros_like(compared)), axis=1))
        logits = self.output(self.aggregate(jnp.concatenate(vectors, axis=-1), drop))
        if isinstance(return_weights, WeightRequest):
            return logits, {name: select(map_, return_weights) for name, map_ in maps.items()}
        return (logits, maps) if return_weights else logits
