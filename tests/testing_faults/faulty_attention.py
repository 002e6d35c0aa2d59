# Over 400 lines: one attention written out once, with every fault in its place.
"""One attention written out with all methods of the contract, and every fault it can be given.

``Attention(fault="")`` is right. Any other name of ``faults()`` switches on one fault, found by the
marks ``self.has(...)`` in this file, so that no fault can be listed without being written.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NEGATIVE = -1e30
HALF = jnp.bfloat16


def faults() -> list[str]:
    """Every fault of this file."""
    found = re.findall(r'self\.has\(\s*"([^"]+)"\s*\)', Path(__file__).read_text("utf-8"))
    return list(dict.fromkeys(found))


def widened(dtype: Any) -> Any:
    """The dtype of logits and weights."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """Projected keys and values ``B S N H``, what may be seen ``B N T S``, places ``B S``."""

    k: Any
    v: Any
    mask: Any
    places: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values ``B L N H`` of what was decoded, and how much that is, ``B``."""

    k: Any
    v: Any
    length: Any


@jax.tree_util.register_pytree_node_class
class Attention:
    """softmax(q k / sqrt(H) - |t - s| / 9) v with N = 2 heads, projected before and after."""

    contract_exceptions = {  # noqa: RUF012
        "weights times values": "values are projected",
        "convex hull": "values are projected",
        "queries are exchangeable": "scores depend on positions",
        "keys are exchangeable": "scores depend on positions",
    }
    N = 2

    def __init__(self, fault: str = "", dim: int = 6, rate: float = 0.2):
        random = np.random.default_rng(0)
        self.fault, self.dropout, self.calls, self.kept = fault, rate, 0, {}
        self.kernels = {
            name: jnp.asarray(0.6 * random.standard_normal((dim, dim)), jnp.float32)
            for name in ("q", "k", "v", "out")
        }

    def has(self, fault: str) -> bool:
        return self.fault == fault

    def tree_flatten(self) -> Any:
        return [self.kernels], (self.fault, self.dropout)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> "Attention":
        made = cls.__new__(cls)
        made.fault, made.dropout = static
        made.calls, made.kept, (made.kernels,) = 0, {}, children
        return made

    def project(self, name: str, x: Any) -> Any:
        kernel = self.kernels[name].astype(x.dtype)
        if name == "q" and self.has("gradient to the q kernel stopped"):
            kernel = jax.lax.stop_gradient(kernel)
        projected = jnp.einsum("bsd,de->bse", x, kernel)
        return projected.reshape(*x.shape[:2], self.N, x.shape[2] // self.N)

    # The call.

    def __call__(
        self,
        query: Any,
        keys: Any,
        values: Any = None,
        *,
        mask: Any = None,
        positions: Any = None,
        key_positions: Any = None,
        return_weights: bool = False,
        dropout_key: Any = None,
    ) -> Any:
        if values is None and self.has("values None are the query"):
            values = jnp.broadcast_to(query[:, :1], keys.shape)
        if values is None and self.has("values None are halved"):
            values = keys / 2
        if mask is None and self.has("causal without a mask"):
            mask = jnp.tri(query.shape[1], keys.shape[1], dtype=bool)[None, None]
        if mask is None and self.has("last key lost without a mask"):
            mask = jnp.arange(keys.shape[1])[None, None, None] < keys.shape[1] - 1
        if self.has("counts its calls"):
            self.calls += 1
            query = query * self.calls
        if self.has("first memory kept by shape"):
            made = self.kept.setdefault(keys.shape, self.prepare(keys, values, mask=mask))
            return self.attend(query, made, return_weights=return_weights)
        if self.has("first mask kept by shape") and mask is not None:
            mask = self.kept.setdefault(keys.shape, mask)
        if self.has("other numbers under jit") and isinstance(query, jax.core.Tracer):
            query = query * 1.01
        if self.has("needs numbers, not tracers"):
            float(query.sum())
        if self.has("wrong with one query") and query.shape[1] == 1:
            query = 2 * query
        if self.has("wrong with one key") and keys.shape[1] == 1:
            values = 2 * (keys if values is None else values)
        if self.has("wrong with one row") and query.shape[0] == 1:
            query = 2 * query
        if self.has("wrong with more queries than keys") and query.shape[1] > keys.shape[1]:
            query = query.at[:, -1].multiply(2)
        if self.has("no result for no query") and 0 in query.shape:
            return query[0]
        if self.has("wrong beyond 128 queries"):
            query = jnp.where((jnp.arange(query.shape[1]) >= 128)[:, None], 2 * query, query)
        if self.has("wrong for 256 keys") and keys.shape[1] >= 256:
            query = 2 * query
        memory = self.prepare(keys, values, mask=mask, positions=key_positions)
        return self.attend(
            query,
            memory,
            positions=positions,
            return_weights=return_weights,
            dropout_key=dropout_key,
        )

    # Memory.

    def prepare(
        self, keys: Any, values: Any = None, *, mask: Any = None, positions: Any = None
    ) -> Any:
        values = keys if values is None else values
        B, S = keys.shape[:2]
        if mask is not None and mask.dtype != bool:
            if not self.has("float mask taken"):
                raise ValueError(f"mask has dtype {mask.dtype}; wanted bool")
            mask = mask != 0
        if mask is None:
            mask = jnp.ones((1, 1, 1, 1), bool)
        if self.has("mask of one row for all"):
            mask = jnp.broadcast_to(mask[:1], mask.shape)
        if self.has("mask of one head for all"):
            mask = mask[:, :1]
        if self.has("mask of one query for all"):
            mask = mask[:, :, :1]
        if self.has("only a full mask is read") and mask.shape[0] == 1:
            mask = jnp.ones((1, 1, 1, 1), bool)
        if self.has("mask columns shifted"):
            mask = jnp.roll(mask, 1, 3)
        if self.has("mask rows shifted"):
            mask = jnp.roll(mask, 1, 2)
        if self.has("mask inverted"):
            mask = ~mask
        if self.has("last query sees all"):
            last = jnp.arange(mask.shape[2])[:, None] == mask.shape[2] - 1
            mask = mask | (last & (mask.shape[2] > 1))[None, None]
        mask = jnp.broadcast_to(mask, (B, *mask.shape[1:3], S))
        unseen = ~jnp.any(mask, axis=(1, 2))[:, :, None]
        clean = lambda x: jnp.where(unseen, jnp.zeros_like(x), x)  # noqa: E731
        if self.has("NaN leaks backwards"):
            values = jnp.where(unseen, jnp.zeros_like(values), values * values / values)
        if not self.has("NaN in keys leaks"):
            keys = clean(keys)
        if not self.has("NaN in values leaks"):
            values = clean(values)
        if self.has("keys of the first row for all"):
            keys = jnp.broadcast_to(keys[:1], keys.shape)
        if self.has("batch mean removed"):
            values = values - jax.lax.stop_gradient(values.mean(0, keepdims=True))
        if positions is None or self.has("places of keys ignored"):
            positions = jnp.arange(S, dtype=jnp.int32)[None]
        places = jnp.broadcast_to(positions, (B, S))
        k, v = self.project("k", keys), self.project("v", values)
        if self.has("keys of the last tile rolled") and S > 128:
            k = jnp.concatenate([k[:, :128], jnp.roll(k[:, 128:], 1, 1)], 1)
        if self.has("last partial tile lost") and S > 128:
            mask = mask & (jnp.arange(S) < S // 128 * 128)[None, None, None]
        if self.has("memory without a batch axis"):
            places = places[:1]
        if self.has("first prepared mask kept"):
            mask = KEPT.setdefault(mask.shape, mask)
        return Memory(k, v, mask, places)

    def attend(
        self,
        query: Any,
        memory: Memory,
        *,
        positions: Any = None,
        return_weights: bool = False,
        dropout_key: Any = None,
    ) -> Any:
        B, T = query.shape[:2]
        if positions is None or self.has("positions of queries ignored"):
            positions = jnp.arange(T, dtype=jnp.int32)[None]
        if self.has("positions off by one where given") and positions.shape[0] == B > 1:
            positions = positions + 1
        q, k, v = self.project("q", query), memory.k, memory.v
        if self.has("attend reads a memory backwards") and T > 1 and return_weights is False:
            v = v[:, ::-1]
        context, weights = self.read(
            q, k, v, memory.mask, positions, memory.places, dropout_key, return_weights
        )
        return (context, weights) if return_weights else context

    def read(
        self, q: Any, k: Any, v: Any, mask: Any, at: Any, places: Any, dropout_key: Any, asked: bool
    ) -> tuple[Any, Any]:
        B, T, N, H = q.shape
        dtype = q.dtype
        if self.has("gradient to queries stopped"):
            q = jax.lax.stop_gradient(q)
        if self.has("gradient to keys stopped"):
            k = jax.lax.stop_gradient(k)
        if self.has("gradient to values stopped"):
            v = jax.lax.stop_gradient(v)
        if self.has("gradient to keys doubled"):
            k = 2 * k - jax.lax.stop_gradient(k)
        if self.has("heads of the keys mixed"):
            k = jnp.concatenate([k[..., :1, :], k[..., :1, :]], 2)
        if self.has("logits in half"):
            q, k = q.astype(HALF).astype(dtype), k.astype(HALF).astype(dtype)
        wide = widened(dtype)
        logits = jnp.einsum("btnh,bsnh->bnts", q, k).astype(wide) / H**0.5
        distance = jnp.abs(at[:, :, None] - places[:, None, :]).astype(wide)[:, None]
        logits = logits - distance / 9
        mask = jnp.broadcast_to(mask, logits.shape)
        if self.has("window of 128 keys"):
            mask = mask & (distance < 128)
        unmasked = jax.nn.softmax(logits, -1)
        low = -1e4 if self.has("-1e4 for -inf") else NEGATIVE
        hidden = jnp.where(mask, logits, low)
        if self.has("softmax in half"):
            weights = jax.nn.softmax(hidden.astype(dtype), -1).astype(wide)
        elif self.has("masked after the softmax"):
            weights = unmasked * mask.astype(wide)
        elif self.has("softmax over queries"):
            weights = jax.nn.softmax(hidden, 2)
        elif self.has("softmax over heads"):
            weights = jax.nn.softmax(hidden, 1)
        elif self.has("no maximum"):
            exp = jnp.where(mask, jnp.exp(logits), 0)
            weights = exp / jnp.maximum(exp.sum(-1, keepdims=True), jnp.finfo(wide).tiny)
        elif self.has("sigmoid"):
            weights = jax.nn.sigmoid(logits)
        else:
            weights = jax.nn.softmax(hidden, -1)
        if self.has("maximum over the whole batch"):
            exp = jnp.exp(hidden - hidden.max()) * mask.astype(wide)
            weights = exp / jnp.maximum(exp.sum(-1, keepdims=True), jnp.finfo(wide).tiny)
        some = mask.any(-1, keepdims=True)
        if not self.has("a fully masked row is the mean"):
            weights = jnp.where(mask if low == NEGATIVE else some, weights, 0)
        if self.has("a fully masked row is NaN"):
            weights = weights / jnp.where(some, 1.0, 0.0).astype(wide)
        if self.has("gradient of weights stopped"):
            weights = jax.lax.stop_gradient(weights)
        used = weights
        rate = self.dropout
        if self.has("dropout without a key"):
            dropout_key = jax.random.key(3)
        if self.has("dropout key ignored"):
            dropout_key = None
        if dropout_key is not None and rate:
            key = jax.random.key(3) if self.has("dropout by a fixed key") else dropout_key
            keep = jax.random.bernoulli(key, 1 - rate, weights.shape)
            scale = 1.0 if self.has("dropout not scaled") else 1 - rate
            used = jnp.where(keep, weights / scale, 0)
            if self.has("dropout scaled by the rate"):
                used = jnp.where(keep, weights * (1 + rate / 2), 0)
            if self.has("dropout lets padding in"):
                used = used + jnp.where(keep, 0.0, 0.01).astype(wide)
        shown = used
        if self.has("dropout of the result"):
            used, shown = weights, weights
        context = jnp.einsum("bnts,bsnh->btnh", used.astype(wide), v.astype(wide))
        if self.has("dropout of the result") and dropout_key is not None and rate:
            keep = jax.random.bernoulli(dropout_key, 1 - rate, context.shape)
            context = jnp.where(keep, context / (1 - rate), 0)
        if self.has("other result without weights") and not asked:
            context = context * 1.01
        context = context.reshape(B, T, N * H).astype(dtype)
        kernel = self.kernels["out"].astype(dtype)
        if self.has("gradient to the result's kernel stopped"):
            kernel = jax.lax.stop_gradient(kernel)
        context = jnp.einsum("btd,de->bte", context, kernel)
        if self.has("wide result"):
            context = context.astype(wide)
        if self.has("later queries read"):
            context = context + 0.1 * jnp.roll(context, -1, 1)
        return context, self.show(shown, unmasked, logits, mask).astype(self.shown_dtype(dtype))

    def shown_dtype(self, dtype: Any) -> Any:
        if self.has("weights in the dtype of the query"):
            return dtype
        return widened(dtype)

    def show(self, weights: Any, unmasked: Any, logits: Any, mask: Any) -> Any:
        """The weights that are returned."""
        if self.has("uniform weights shown"):
            even = mask.astype(weights.dtype)
            return even / jnp.maximum(even.sum(-1, keepdims=True), 1)
        if self.has("unmasked weights shown"):
            return unmasked
        if self.has("flatter weights shown"):
            flat = jnp.where(mask & (weights > 0), weights**0.25, 0)
            return flat / jnp.maximum(flat.sum(-1, keepdims=True), 1e-9)
        if self.has("sharper weights shown"):
            sharp = jax.nn.softmax(jnp.where(mask, 1.1 * logits, NEGATIVE), -1)
            return jnp.where(mask, sharp, 0)
        if self.has("mean over heads shown"):
            return jnp.broadcast_to(weights.mean(1, keepdims=True), weights.shape)
        if self.has("first head shown for all"):
            return jnp.broadcast_to(weights[:, :1], weights.shape)
        if self.has("heads shown in reverse"):
            return weights[:, ::-1]
        if self.has("rows of the batch shown in reverse"):
            return weights[::-1]
        if self.has("queries shown in reverse"):
            return weights[:, :, ::-1]
        if self.has("weights shown transposed"):
            return jnp.swapaxes(weights, 2, 3)
        if self.has("coarse weights shown"):
            return weights.astype(HALF).astype(weights.dtype)
        if self.has("heads last"):
            return jnp.moveaxis(weights, 1, 3)
        if self.has("logits shown"):
            return jnp.where(mask, logits, 0)
        if self.has("weights negated"):
            return -weights
        return weights

    # A decoder's steps.

    def empty_past(self, memory: Memory) -> Any:
        return jnp.zeros(memory.k.shape[0], jnp.int32)

    def step(self, query: Any, memory: Memory, *, position: Any, past: Any) -> Any:
        if self.has("position of a step off by one"):
            position = position + 1
        if self.has("position of a step ignored"):
            position = jnp.zeros_like(position)
        if self.has("position of the first row for all"):
            position = jnp.broadcast_to(position[:1], position.shape)
        if self.has("position of a step is that of the first row's past"):
            position = past
        context, weights = self.attend(
            query[:, None], memory, positions=position[:, None], return_weights=True
        )
        if self.has("step shows uniform weights"):
            weights = jnp.full_like(weights, 1 / weights.shape[3])
        if self.has("step reads an unmasked memory"):
            everything = jnp.ones_like(memory.mask)
            context = self.attend(
                query[:, None],
                dataclasses.replace(memory, mask=everything),
                positions=position[:, None],
            )
        return context[:, 0], weights[:, :, 0], past + 2

    def extend(
        self,
        query: Any,
        memory: Memory,
        past: Any,
        *,
        positions: Any = None,
        return_weights: bool = False,
    ) -> Any:
        if self.has("a block starts at position 0"):
            positions = None
        if self.has("a block reads itself in reverse"):
            query = query[:, ::-1]
        if self.has("a block without weights is halved") and not return_weights:
            query = query / 2
        result = self.attend(query, memory, positions=positions, return_weights=return_weights)
        return result, past + query.shape[1]

    def empty_cache(
        self, batch: int, max_length: int, dtype: Any = jnp.float32, cache: str = "plain"
    ) -> Cache:
        width = self.kernels["k"].shape[1] // self.N
        zeros = jnp.zeros((batch, max_length, self.N, width), dtype)
        length = jnp.zeros((batch,), jnp.int32)
        if self.has("one length for the whole cache"):
            length = length[0]
        return Cache(zeros, zeros, length)

    def decode(
        self,
        x: Any,
        cache: Cache,
        *,
        mask: Any = None,
        positions: Any = None,
        score_mod: Any = None,
        return_weights: bool = False,
    ) -> Any:
        (B, T), L = x.shape[:2], cache.k.shape[1]
        start = jnp.broadcast_to(cache.length, (B,))
        at = start[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
        slots = at
        if self.has("cache written a slot too late"):
            slots = jnp.minimum(at + 1, L - 1)
        if self.has("cache written where the first row is"):
            slots = at * 0 + at[:1]
        if self.has("a block overwrites its first slot"):
            slots = jnp.broadcast_to(start[:, None], at.shape)
        put = jax.vmap(lambda held, slots, new: held.at[slots].set(new.astype(held.dtype)))
        k, v = (self.project(name, x) for name in ("k", "v"))
        k, v = put(cache.k, slots, k), put(cache.v, slots, v)
        if self.has("cache in half"):
            k, v = (x.astype(HALF).astype(x.dtype) for x in (k, v))
        if self.has("cache values not written"):
            v = cache.v
        if self.has("cache changes its dtype"):
            k = k.astype(HALF)
        places = jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32)[None], (B, L))
        past = (places[:, None, :] <= at[:, :, None])[:, None]
        if self.has("decoding sees a later slot"):
            past = (places[:, None, :] <= at[:, :, None] + 1)[:, None]
        if self.has("the cache beyond its length is read"):
            past = jnp.ones_like(past)
        if self.has("a block is not causal"):
            past = (places[:, None, :] < start[:, None, None] + T)[:, None]
        if self.has("decoding does not see itself"):
            past = (places[:, None, :] < jnp.maximum(at, 1)[:, :, None])[:, None]
        if mask is not None and not self.has("mask of the cache ignored"):
            past = past & mask
        if self.has("mask of the first row for the whole cache") and mask is not None:
            past = past & mask[:1]
        if self.has("mask of the cache reads queries") and mask is not None:
            past = past & jnp.roll(mask, 1, 3)
        if self.has("positions of decoding from 0"):
            at = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
        if self.has("positions of decoding are not those of its keys") and positions is not None:
            at = positions
        if self.has("decoding sees 64 back"):
            past = past & (places[:, None, :] > start[:, None, None] - 64)[:, None]
        q = self.project("q", x)
        k, v = k.astype(q.dtype), v.astype(q.dtype)
        context, weights = self.read(q, k, v, past, at, places, None, return_weights)
        if self.has("decoding without weights is halved") and not return_weights:
            context = context / 2
        if self.has("decoding in float32"):
            context = context.astype(widened(context.dtype))
        if self.has("decoding shows weights of the first query"):
            weights = jnp.broadcast_to(weights[:, :, :1, ::-1], weights.shape)
        held = Cache(
            k if self.has("cache changes its dtype") else k.astype(cache.k.dtype),
            v.astype(cache.v.dtype),
            cache.length + T,
        )
        if self.has("cache changes its dtype"):
            held = dataclasses.replace(held, k=k.astype(HALF))
        if self.has("length of a cache not counted in blocks"):
            held = dataclasses.replace(held, length=cache.length + 1)
        return (context, weights) if return_weights else context, held


KEPT: dict[Any, Any] = {}
