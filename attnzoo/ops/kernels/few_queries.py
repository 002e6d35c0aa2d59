"""Attention of few queries to many keys, as in decoding with a cache: keys are split into chunks.

The weights are small; the time goes into reading keys and values. A CPU reads a few keys in one
product. Of more, each chunk is read once, without a change of layout, and only if a query may see a
key in it. So an empty part of a cache, or keys outside of a window, cost nothing. Rows of weights
are whole, so that the softmax is that of the reference, forward and backward, and the outputs of
the chunks are simply added.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnzoo.ops.dropout import AnyKey, dropout_keep_mask, seed_of
from attnzoo.ops.guards import any_visible, finite_or_zero, has_non_finite, poison
from attnzoo.ops.index_functions import index_grid
from attnzoo.ops.kernels import reference
from attnzoo.ops.kernels.derivatives import by_need
from attnzoo.ops.logits import Scoring, repeat_for_query_heads
from attnzoo.ops.masks import dense_mask
from attnzoo.ops.softmax import compute_dtype

CHUNK = 1 << 21
"""Bytes of a chunk of keys; with its values and a copy of both it stays in the CPU's cache. Fewer
keys in all are read at once."""

AGAIN, DONE = np.int32(1), np.int32(2)
"""States of the loop that computes a call a second time if something was not finite."""


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float = 0.0,
    dropout_key: AnyKey | None = None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """Compute output and log-sum-exp, with all weights ``B N T S`` in memory."""
    B, S, K, H = k.shape
    if dropout_key is None and reads_at_once(B, S, K, max(H, v.shape[3]), compute_dtype(q, k)):

        def at_once(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
            return _at_once(q, k, v, settings)

        def in_chunks(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
            return _in_chunks(q, k, v, settings, 0.0, None)

        return by_need(at_once, in_chunks, q, k, v)
    return _in_chunks(q, k, v, settings, dropout_rate, dropout_key)


def reads_at_once(batch: int, length: int, heads: int, width: int, dtype: Any) -> bool:
    """Return whether keys of this shape are few enough to be read in one product, on a CPU."""
    sizes = (batch, length, heads, width, max(jnp.dtype(dtype).itemsize, 4))
    known = all(isinstance(size, int) for size in sizes)  # an exported program may leave them open
    return known and math.prod(sizes) <= CHUNK and jax.default_backend() == "cpu"


def _at_once(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """Compute :func:`attend` as one product for all rows and heads, and one for the values.

    Any NaN or inf, masked or not, shows in the products or in the output; then the reference says
    which rows see it.
    """
    (B, T, N, H), (S, K, Hv) = q.shape, v.shape[1:]
    dtype = compute_dtype(q, k)
    # A small cache has its heads in front, so that nothing is moved here.
    keys, values = (jnp.moveaxis(x, 2, 1) for x in (k, v))

    def plainly() -> tuple[Array, Array, Array]:
        rows = jnp.moveaxis(q.astype(dtype).reshape(B, T, K, N // K, H), 1, 3)
        products = jnp.einsum("bkrh,bksh->bkrs", rows.reshape(B, K, -1, H), keys.astype(dtype))
        logits, visible = settings.of_products(products.reshape(B, N, T, S), H)
        weights, lse = settings.normalise(logits, visible)
        weights = weights.reshape(B, K, -1, S)
        read = jnp.einsum("bkrs,bksh->bkrh", weights, values.astype(dtype))
        out = jnp.moveaxis(read.reshape(B, N, T, Hv), 1, 2).astype(q.dtype)
        finite = jnp.all(jnp.isfinite(products)) & jnp.all(jnp.isfinite(read))
        return jnp.where(finite, DONE, AGAIN), out, lse

    def carefully() -> tuple[Array, Array, Array]:
        k, v = (jnp.moveaxis(x, 1, 2) for x in (keys, values))
        return jnp.asarray(DONE), *reference.attend(q, k, v, settings)

    # Outside of a loop XLA:CPU would write a cache twice, in the shapes of its two readers.
    shapes = jax.eval_shape(plainly)[1:]
    nothing = (jnp.zeros(x.shape, x.dtype) for x in shapes)
    _, out, lse = jax.lax.while_loop(
        lambda carry: carry[0] < DONE,
        lambda carry: jax.lax.cond(carry[0] < AGAIN, plainly, carefully),
        (jnp.int32(0), *nothing),
    )
    return out, lse


def _in_chunks(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    settings: Scoring,
    dropout_rate: float,
    dropout_key: AnyKey | None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T"]]:
    """Compute :func:`attend`; chunks in which no query may see a key are not read."""
    (B, T, N, H), (S, K, Hv) = q.shape, v.shape[1:]
    dtype = compute_dtype(q, k)
    size = chunk_size(S, K * max(H, Hv) * dtype.itemsize)
    keys, values = _padded(k, size), _padded(v, size)
    wanted = _chunks_in_sight(settings, (B, N, T, S), size)
    rows = jnp.moveaxis(finite_or_zero(q).astype(dtype).reshape(B, T, K, N // K, H), 1, 3)
    rows = rows.reshape(B, K, -1, H)

    logits, bad_keys = _products(rows, keys, wanted)
    logits, visible = settings.of_products(logits[..., :S].reshape(B, N, T, S), H)
    weights, lse = settings.normalise(logits, visible)
    if dropout_key is not None:
        keep = dropout_keep_mask(seed_of(dropout_key), dropout_rate, *index_grid(B, N, T, S))
        weights = jnp.where(keep, weights / (1 - dropout_rate), jnp.zeros_like(weights))
    room = ((0, 0), (0, 0), (0, 0), (0, -S % size))
    weights = jnp.pad(weights.reshape(B, K, -1, S), room)
    out, bad_values = _read(weights, values, wanted)
    out = jnp.moveaxis(out.reshape(B, N, T, Hv), 1, 2)

    def marked(keys: Bool[Array, "B S K"]) -> Bool[Array, "B N T"]:
        return jnp.broadcast_to(
            any_visible(repeat_for_query_heads(keys[:, :S], N), visible), (B, N, T)
        )

    bad_rows = jnp.moveaxis(has_non_finite(q), 1, 2) & marked(jnp.ones_like(bad_keys))
    bad_rows = bad_rows | marked(bad_keys)
    lse = poison(lse, bad_rows)
    bad_rows = bad_rows | marked(bad_values)
    return poison(out, jnp.moveaxis(bad_rows, 1, 2)[..., None]).astype(q.dtype), lse


def chunk_size(S: int, row: int) -> int:
    """Choose the keys per chunk, of ``row`` bytes each; a divisor of S if one is large enough."""
    fewest = -(-S // min(max(CHUNK // row, 16), S))
    # Other lengths have to be padded, which copies all keys.
    divisors = [S // count for count in range(fewest, 4 * fewest + 1) if S % count == 0]
    return divisors[0] if divisors else -(-S // fewest)


def _chunks_in_sight(
    settings: Scoring, shape: tuple[int, int, int, int], size: int
) -> Bool[Array, " chunks"]:
    """Return True for each chunk in which some query may see a key."""
    B, _, _, S = shape
    visible = settings.mask
    if settings.mask_mod is not None:
        by_index = dense_mask(settings.mask_mod, *index_grid(*shape), shape=shape)
        visible = by_index if visible is None else visible & by_index
    seen = jnp.ones((B, S), bool)
    if visible is not None:
        seen = seen & jnp.any(visible, axis=(1, 2))
    return jnp.any(_padded(seen, size).reshape(-1, size), axis=1)


def _padded(x: Any, size: int) -> Any:
    """Pad ``B S ...`` to whole chunks, without a copy if it has them."""
    _, S, *rest = x.shape
    return jnp.pad(x, ((0, 0), (0, -S % size), *((0, 0) for _ in rest))) if S % size else x


def _chunk(x: Float[Array, "B L K H"], i: Array, size: int) -> Float[Array, "s K H"]:
    """Return a chunk by its number among those of all rows.

    It is sliced from keys as they come: of reshaped ones, XLA:CPU would copy a whole cache in every
    step of decoding.
    """
    per_row = x.shape[1] // size
    starts = [i // per_row, i % per_row * size, *[jnp.zeros((), i.dtype)] * (x.ndim - 2)]
    return jax.lax.dynamic_slice(x, starts, (1, size, *x.shape[2:]))[0]


def _over(wanted: Bool[Array, " chunks"], visit: Callable[..., Any], *rows: Array) -> Any:
    """Return ``visit`` of the number and rows of each wanted chunk, and zeros for the others."""
    count = jnp.arange(wanted.shape[0], dtype=jnp.int32)
    given = (count, *rows)
    one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in given]
    shapes = jax.eval_shape(visit, *one)

    def nothing(*_: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def either(inputs: Any) -> Any:
        return jax.lax.cond(inputs[0], visit, nothing, *inputs[1:])

    # On a CPU one after the other, to use its cache; on an accelerator all at once.
    if jax.default_backend() == "cpu":
        return jax.lax.map(either, (wanted, *given))
    return jax.vmap(either)((wanted, *given))


def _split(x: Float[Array, "B K R L"], size: int) -> Float[Array, "chunks K R s"]:
    B, K, R, _ = x.shape
    return jnp.moveaxis(x.reshape(B, K, R, -1, size), 3, 1).reshape(-1, K, R, size)


def _joined(x: Float[Array, "chunks K R s"], B: int) -> Float[Array, "B K R L"]:
    _, K, R, size = x.shape
    return jnp.moveaxis(x.reshape(B, -1, K, R, size), 1, 3).reshape(B, K, R, -1)


# Two products that are each other's gradient. They have rules of their own, because differentiating
# a loop over slices of the keys would add an array as large as all keys in every step.


@jax.custom_vjp
def _products(
    q: Float[Array, "B K R H"], keys: Float[Array, "B L K H"], wanted: Bool[Array, " chunks"]
) -> tuple[Float[Array, "B K R L"], Bool[Array, "B L K"]]:
    """Return the products with keys, NaN and inf read as 0, and marks of keys not finite."""
    B = q.shape[0]
    per_row = wanted.shape[0] // B
    size = keys.shape[1] // per_row

    def visit(i: Array) -> tuple[Array, Array]:
        def product(chunk: Array) -> Array:
            # The larger operand is on the left: XLA:CPU transposes it slowly on the right.
            product = jnp.einsum("skh,krh->ksr", chunk.astype(q.dtype), q[i // per_row])
            return jnp.swapaxes(product, 1, 2)

        return _guarded(product, lambda: _chunk(keys, i, size))

    products, bad = _over(wanted, visit)
    return _joined(products, B), bad.reshape(B, -1, bad.shape[2])


@jax.custom_vjp
def _read(
    weights: Float[Array, "B K R L"],
    values: Float[Array, "B L K H"],
    wanted: Bool[Array, " chunks"],
) -> tuple[Float[Array, "B K R H"], Bool[Array, "B L K"]]:
    """Return weighted sums of values, NaN and inf read as 0, and marks of values not finite."""
    B = weights.shape[0]
    size = values.shape[1] * B // wanted.shape[0]

    def visit(i: Array, weights: Array) -> tuple[Array, Array]:
        def product(chunk: Array) -> Array:
            return jnp.einsum("krs,skh->krh", weights, chunk.astype(weights.dtype))

        return _guarded(product, lambda: _chunk(values, i, size))

    parts, bad = _over(wanted, visit, _split(weights, size))
    out = jnp.sum(parts.reshape(B, -1, *parts.shape[1:]), axis=1)
    return out, bad.reshape(B, -1, bad.shape[2])


def _guarded(product: Callable[[Array], Array], chunk: Callable[[], Array]) -> tuple[Array, Array]:
    """Return a product with NaN and inf of the chunk read as 0, and marks of rows not finite.

    Only if the plain product is not finite, the chunk is read and multiplied a second time.
    """
    first = product(chunk())

    def careful() -> tuple[Array, Array]:
        again = chunk()
        return product(finite_or_zero(again)), has_non_finite(again)

    nobody = jnp.zeros(jax.eval_shape(chunk).shape[:2], bool)
    return jax.lax.cond(jnp.all(jnp.isfinite(first)), lambda: (first, nobody), careful)


def _outer(
    d: Float[Array, "B K R L"],
    x: Float[Array, "B K R H"],
    like: Float[Array, "B L K H"],
    wanted: Bool[Array, " chunks"],
) -> Float[Array, "B L K H"]:
    """Return the gradient of keys or values multiplied by ``x``; 0 where they are not finite."""
    per_row = wanted.shape[0] // x.shape[0]
    size = like.shape[1] // per_row

    def visit(i: Array, d: Array) -> Array:
        gradient = jnp.einsum("krs,krh->skh", d, x[i // per_row]).astype(like.dtype)
        finite = jnp.isfinite(_chunk(like, i, size))
        return jnp.where(finite, gradient, jnp.zeros_like(gradient))

    return _over(wanted, visit, _split(d, size)).reshape(like.shape)


def _products_backward(saved: Any, cotangents: Any) -> Any:
    q, keys, wanted = saved
    d, _ = cotangents
    return _read(d, keys, wanted)[0], _outer(d, q, keys, wanted), None


def _read_backward(saved: Any, cotangents: Any) -> Any:
    weights, values, wanted = saved
    d, _ = cotangents
    return _products(d, values, wanted)[0], _outer(weights, d, values, wanted), None


_products.defvjp(lambda *given: (_products(*given), given), _products_backward)
_read.defvjp(lambda *given: (_read(*given), given), _read_backward)
