"""Attention weights on request: recomputed from q and k in blocks of rows, for any implementation.

Only the requested part takes memory: the largest intermediate is one block of rows times all keys.
A fused kernel passes its log-sum-exp; without it each block normalises its own rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnzoo.ops.guards import poison
from attnzoo.ops.logits import ScoreFunction, Scoring, non_finite_rows, scoring
from attnzoo.ops.masks import MaskFunction
from attnzoo.ops.softmax import compute_dtype
from attnzoo.ops.wide_sums import wide

STATISTICS = ("entropy", "column_mass")
BLOCK = 64
TOGETHER = 1 << 24
"""Bytes of a block of weights up to which all heads are computed together."""


@dataclasses.dataclass(frozen=True)
class WeightRequest:
    """The part of the attention weights to return."""

    rows: tuple[int, ...] | None = None
    """Query positions of the weights or top_k; None: all. Statistics alone return no weights."""
    heads: tuple[int, ...] | None = None
    """Query heads to report; None: all."""
    top_k: int | None = None
    """Return only the top_k largest weights of each row, and their keys."""
    statistics: tuple[str, ...] = ()
    """Over all rows: "entropy" of each row, and "column_mass", the sum of weights per key."""

    def __post_init__(self) -> None:
        for name in self.statistics:
            if name not in STATISTICS:
                raise ValueError(f"statistics names {name!r}; there are {', '.join(STATISTICS)}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}; wanted at least 1")


class WeightReport(NamedTuple):
    """Result of a ``WeightRequest``; parts that were not requested are None.

    M: the chosen heads, R: the chosen rows. Entropy is -sum w ln w, in nats; it is NaN for weights
    below 0 (delta rule).
    """

    weights: Float[Array, "B M R S"] | None = None
    top_weights: Float[Array, "B M R k"] | None = None
    top_keys: Int[Array, "B M R k"] | None = None
    entropy: Float[Array, "B M T"] | None = None
    column_mass: Float[Array, "B M S"] | None = None


def attention_weights(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    request: WeightRequest,
    *,
    lse: Float[Array, "B N T"] | None = None,
    mask: Bool[Array, "..."] | MaskFunction | None = None,
    bias: Float[Array, "..."] | None = None,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    score_mod: ScoreFunction | None = None,
    sinks: Float[Array, " N"] | None = None,
    softcap: float | None = None,
) -> WeightReport:
    """Return the weights of dot-product attention with these settings, without its output.

    ``lse`` is the log-sum-exp that the inspected implementation returned, with sinks included; the
    weights are then exp(logits - lse). Entropy is -sum w ln w, in nats. Other arguments and errors
    are those of ``dot_product_attention``.
    """
    settings = scoring(
        (q.shape[0], q.shape[2], q.shape[1], k.shape[1]),
        mask=mask,
        bias=bias,
        scale=scale,
        softcap=softcap,
        score_mod=score_mod,
        sinks=sinks,
        is_causal=is_causal,
    )
    return report(q, k, settings, request, lse)


def report(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    settings: Scoring,
    request: WeightRequest,
    lse: Float[Array, "B N T"] | None = None,
) -> WeightReport:
    """Return the weights as :func:`attention_weights` does, from settings already checked."""
    B, T, N, _ = q.shape
    S = k.shape[1]
    heads = _chosen("heads", request.heads, N)
    rows = _chosen("rows", request.rows, T)
    if 0 in (B, T, S):
        return select(jnp.zeros((B, N, T, S), compute_dtype(q, k)), request)
    if request.top_k is not None:
        _check_top_k(request.top_k, S)

    @jax.checkpoint
    def weights_of(rows: Int[Array, " R"], heads: Int[Array, " M"]) -> Float[Array, "B M R S"]:
        return _weights_of_rows(q, k, settings, lse, rows, heads)

    def by_heads(look: Callable[[Int[Array, " M"]], Any]) -> Any:
        """Return ``look(heads)`` (heads on axis 1), one head at a time if memory requires it."""
        if 4 * B * heads.shape[0] * min(BLOCK, T) * S <= TOGETHER:
            return look(heads)
        alone = jax.lax.map(wide(lambda head: look(head[None]), heads[0]), heads)
        return jax.tree.map(lambda x: jnp.moveaxis(x[:, :, 0], 0, 1), alone)

    found: dict[str, Any] = {}
    if request.top_k is not None:
        top_k = request.top_k

        def top(heads: Int[Array, " M"]) -> list[Array]:
            indices = row_blocks(rows.shape[0])

            def of_block(block: Int[Array, " R"]) -> Any:
                return jax.lax.top_k(weights_of(rows[block], heads), top_k)

            blocks = jax.lax.map(wide(of_block, indices[0]), indices)
            return [unblock(x, 2, rows.shape[0]) for x in blocks]

        found["top_weights"], found["top_keys"] = by_heads(top)
    elif request.rows is not None or not request.statistics:
        found["weights"] = weights_of(rows, heads)

    if request.statistics:

        def statistics(heads: Int[Array, " M"]) -> dict[str, Array]:
            def add(mass: Array, block: Int[Array, " R"]) -> tuple[Array, Array]:
                weights = weights_of(jnp.minimum(block, T - 1), heads)
                counted = (block < T)[None, None, :, None]
                mass = mass + jnp.sum(jnp.where(counted, weights, jnp.zeros_like(weights)), axis=2)
                return mass, _entropy(weights)

            dtype = jax.eval_shape(weights_of, row_blocks(T)[0], heads).dtype
            nothing = jnp.zeros((B, heads.shape[0], S), dtype)
            indices = row_blocks(T, clip=False)
            mass, entropy = jax.lax.scan(wide(add, nothing, indices[0]), nothing, indices)
            return {"entropy": unblock(entropy, 2, T), "column_mass": mass}

        everything = by_heads(statistics)
        found.update((name, everything[name]) for name in request.statistics)
    return WeightReport(**found)


def select(weights: Float[Array, "B N T S"], request: WeightRequest) -> WeightReport:
    """Return the requested part of weights that are already computed.

    For mechanisms that score each pair, or that imply weights without computing with them.
    """
    _, N, T, S = weights.shape
    weights = weights[:, _chosen("heads", request.heads, N)]
    found: dict[str, Any] = {}
    rows = weights[:, :, _chosen("rows", request.rows, T)]
    if request.top_k is not None:
        _check_top_k(request.top_k, S)
        found["top_weights"], found["top_keys"] = jax.lax.top_k(rows, request.top_k)
    elif request.rows is not None or not request.statistics:
        found["weights"] = rows
    everything = {
        "entropy": lambda: _entropy(weights),
        "column_mass": lambda: jnp.sum(weights, axis=2),
    }
    found.update((name, everything[name]()) for name in request.statistics)
    return WeightReport(**found)


def _check_top_k(top_k: int, S: int) -> None:
    if top_k > S:
        raise ValueError(f"top_k={top_k} is more than the {S} keys")


def _weights_of_rows(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    settings: Scoring,
    lse: Float[Array, "B N T"] | None,
    rows: Int[Array, " R"],
    heads: Int[Array, " M"],
) -> Float[Array, "B M R S"]:
    logits, visible = settings.logits(q, k, rows, heads)
    if lse is None:
        weights, _ = settings.normalise(logits, visible, heads)
    else:
        chosen = lse[:, heads][:, :, rows, None].astype(logits.dtype)
        # A row that sees nothing has an lse of -inf; any finite number can take its place.
        chosen = jnp.where(jnp.isneginf(chosen), jnp.zeros_like(chosen), chosen)
        hidden = logits if visible is None else jnp.where(visible, logits, -jnp.inf)
        weights = jnp.exp(hidden - chosen)
    return poison(weights, non_finite_rows(q, k, visible, rows, heads)[..., None])


def _entropy(weights: Float[Array, "B M R S"]) -> Float[Array, "B M R"]:
    """Return -sum w ln w with 0 ln 0 = 0, also in the gradient."""
    logarithm = jnp.log(jnp.where(weights == 0, jnp.ones_like(weights), weights))
    return -jnp.sum(weights * logarithm, axis=-1)


def _chosen(name: str, indices: tuple[int, ...] | None, size: int) -> Int[Array, " M"]:
    if indices is None:
        return jnp.arange(size, dtype=jnp.int32)
    wrong = [index for index in indices if not -size <= index < size]
    if wrong:
        raise ValueError(f"{name} asks for {wrong[0]}, but there are {size}")
    return jnp.asarray([index % size for index in indices], jnp.int32)


def row_blocks(T: int, *, clip: bool = True) -> Int[Array, "blocks rows"]:
    """Split query rows into blocks; with ``clip``, rows past the end repeat the last one."""
    blocks = max(-(-T // BLOCK), 1)
    rows = jnp.arange(blocks * BLOCK, dtype=jnp.int32).reshape(blocks, BLOCK)
    return jnp.minimum(rows, max(T - 1, 0)) if clip else rows


def unblock(x: Array, axis: int, T: int) -> Array:
    """Join blocks stacked on the first axis along ``axis``, and cut the result to length ``T``."""
    x = jnp.moveaxis(x, 0, axis)
    x = x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, T, axis=axis)


def with_weights(
    context: Any, weights: Float[Array, "B N T S"], return_weights: bool | WeightRequest
) -> Any:
    """Return the context, followed by the weights or the ``WeightReport`` if requested."""
    if isinstance(return_weights, WeightRequest):
        return context, select(weights, return_weights)
    return (context, weights) if return_weights else context
