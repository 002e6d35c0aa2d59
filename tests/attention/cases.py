# Over 400 lines: an oracle for each attention, with the list of cases that names it.
"""One case or a few for each attention of the registry: how to build it, and what it is held to.

A new mechanism adds a line here, with a number that can be computed by hand where no other test has
one; the contract, requests and all products with models follow from the registries.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo.attention import ATTENTIONS, AdditiveAttention, Attention, Rotary
from attnzoo.ops import masks
from attnzoo.ops.normalisers import smoothing
from attnzoo.testing import ModuleSizes

SIZES = ModuleSizes(B=2, T=5, S=7, D=11, D2=13, Dv=3)
EQUAL = ModuleSizes(B=2, T=5, S=7, D=11, D2=11, Dv=3)
SELF = ModuleSizes(B=2, T=5, S=5, D=6, D2=6, Dv=6)
EIGHT = ModuleSizes(B=2, T=5, S=5, D=8, D2=8, Dv=8)  # rotary turns pairs, so heads are even
HEADS = ModuleSizes(B=2, T=5, S=7, D=6, D2=6, Dv=6)
GROUPED = ModuleSizes(B=2, T=5, S=7, D=8, D2=8, Dv=8)
WIDTHS = {"query_dim": 11, "key_dim": 13}
TWO_HEADS = {"dim": 6, "num_heads": 2}


def cosine_by_hand() -> tuple[Any, Any]:
    """cos((3, 4), (4, 3)) = 24 / 25 and cos((3, 4), (0, 1)) = 4 / 5, over a temperature of 1/2."""
    attention = ATTENTIONS["cosine"](2, 1, rngs=nnx.Rngs(0))
    for projection in (attention.query, attention.key):
        projection.kernel[...] = jnp.eye(2)
    attention.log_scale[...] = jnp.log(jnp.asarray([2.0]))
    keys = jnp.asarray([[[4.0, 3.0], [0.0, 1.0]]])
    _, weights = attention(jnp.asarray([[[3.0, 4.0]]]), keys, return_weights=True)
    exp = np.exp([2 * 0.96, 2 * 0.8])
    return weights[0, 0, 0], exp / exp.sum()


def coverage_by_hand() -> tuple[Any, Any]:
    """Scores tanh(k - c) for keys 1 and 2: the second query sees k minus the first weights."""
    attention = ATTENTIONS["coverage"](1, 1, 1, rngs=nnx.Rngs(0))
    attention.key_kernel[...] = jnp.ones((1, 1))
    attention.score_kernel[...] = jnp.ones((1,))
    attention.coverage_kernel[...] = -jnp.ones((1,))
    keys = jnp.asarray([[[1.0], [2.0]]])
    _, weights = attention(jnp.zeros((1, 2, 1)), keys, return_weights=True)
    first = np.exp(np.tanh([1.0, 2.0]))
    first /= first.sum()
    second = np.exp(np.tanh([1.0, 2.0] - first))
    return weights[0, 0], [first, second / second.sum()]


def location_aware_by_hand() -> tuple[Any, Any]:
    """A filter that sees the left neighbour: after weights (1/2, 1/2), scores (0, tanh(1/2))."""
    attention = ATTENTIONS["location_aware"](1, 1, filters=1, kernel=3, rngs=nnx.Rngs(0))
    attention.query_kernel[...] = attention.key_kernel[...] = jnp.zeros((1, 1))
    attention.filters[...] = jnp.asarray([[1.0], [0.0], [0.0]])
    attention.location_kernel[...] = jnp.ones((1, 1))
    attention.score_kernel[...] = jnp.ones(1)
    numbers = jnp.ones((1, 2, 1))
    _, weights = attention(numbers, numbers, return_weights=True)
    exp = np.exp([0.0, np.tanh(0.5)])
    return weights[0, 0], [[0.5, 0.5], exp / exp.sum()]


def linformer_by_hand() -> tuple[Any, Any]:
    """Rows of E read the first two of three keys: weights 2/3 and 1/3 of the rows of F."""
    attention = ATTENTIONS["linformer"](1, 1, 3, 2, rngs=nnx.Rngs(0))
    for projection in (attention.query, attention.key):
        projection.kernel[...] = jnp.ones((1, 1))
    attention.key_rows[...] = jnp.eye(2, 3)[None]
    attention.value_rows[...] = jnp.asarray([[[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]])
    keys = jnp.asarray([[[np.log(2.0)], [0.0], [5.0]]], jnp.float32)
    _, weights = attention(jnp.ones((1, 1, 1)), keys, return_weights=True)
    return weights[0, 0, 0], [2 / 3, 1 / 3, 2 * 2 / 3 - 1 / 3]


def hopfield_by_hand() -> tuple[Any, Any]:
    """Patterns 1 and -1: an update is xi <- tanh(beta xi)."""
    attention = ATTENTIONS["hopfield"](1, 1, beta=3.0, steps=3, rngs=nnx.Rngs(0))
    for projection in (attention.query, attention.key):
        projection.kernel[...] = jnp.ones((1, 1))
    keys = jnp.asarray([[[1.0], [-1.0]]])
    _, weights = attention(jnp.full((1, 1, 1), 0.5), keys, return_weights=True)
    last = np.tanh(3 * np.tanh(3 * np.tanh(3 * 0.5)))
    return weights[0, 0, 0], [(1 + last) / 2, (1 - last) / 2]


def kimi_delta_by_hand() -> tuple[Any, Any]:
    """Two keys at right angles, then one between them; beta is 1/2, channels keep 1/2 and 1/4.

    The third reads the first after two decays of its channel, the second after one; half of what
    its own key finds, which is also its query, is erased.
    """
    attention = ATTENTIONS["kimi_delta"](2, 1, rank=1, conv_width=1, rngs=nnx.Rngs(0))
    for projection in (attention.query, attention.key):
        projection.kernel[...] = jnp.eye(2)
    for conv in (attention.query_conv, attention.key_conv, attention.value_conv):
        conv.kernel[...] = jnp.ones((1, 2))
    attention.strength.kernel[...] = jnp.zeros((2, 1))  # beta = sigmoid(0) = 1/2
    attention.decay.projection.up.kernel[...] = jnp.zeros((1, 2))
    attention.decay.rate[...] = jnp.zeros(1)
    attention.decay.bias[...] = jnp.log(jnp.asarray([1.0, 3.0]))  # e^-softplus: 1/2 and 1/4
    words = jnp.asarray([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    _, weights = nnx.jit(lambda m, x: m(x, x, return_weights=True))(attention, words)
    first, second = 1 / 2 / 2**2 / 2**0.5 * (1 - 1 / 2), 1 / 2 / 4 / 2**0.5 * (1 - 1 / 2)
    return weights[0, 0, 2], np.asarray([first, second, 1 / 2]) / 2**0.5


def kernel(projection: Any) -> np.ndarray:
    return np.asarray(projection.kernel[...], np.float64)


def heads_of(module: Any, values: np.ndarray) -> np.ndarray:
    """Projected values ``B N S H``, and what a head's context becomes in the result: ``N H Do``."""
    B, S, _ = values.shape
    return np.moveaxis((values @ kernel(module.value)).reshape(B, S, module.num_heads, -1), 2, 1)


def joined(module: Any, contexts: np.ndarray) -> np.ndarray:
    """The result ``B T Do`` of contexts ``B N T H``."""
    B, _, T, _ = contexts.shape
    return np.moveaxis(contexts, 1, 2).reshape(B, T, -1) @ kernel(module.out)


def linformer_oracle(module: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Full E and F a head, cut to the real keys of a row; one row and one head at a time."""
    N = module.num_heads
    E = np.broadcast_to(
        np.asarray(module.key_rows[...], np.float64), (N, *module.key_rows.shape[1:])
    )
    F = E if module.value_rows is None else np.asarray(module.value_rows[...], np.float64)
    F = np.broadcast_to(F, E.shape)

    def attend(query: Any, keys: Any, values: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        v = heads_of(module, values)
        weights = np.zeros((len(query), N, query.shape[1], keys.shape[1]))
        for b in range(len(query)):
            real = np.flatnonzero(mask[b, 0, 0])
            for n in range(N):
                own = slice(n * v.shape[-1], (n + 1) * v.shape[-1])
                q = query[b] @ kernel(module.query)[:, own]
                k = keys[b, real] @ kernel(module.key)[:, own]
                exp = np.exp(q @ (E[n][:, real] @ k).T / np.sqrt(v.shape[-1]))
                weights[b, n][:, real] = exp / exp.sum(-1, keepdims=True) @ F[n][:, real]
        return joined(module, weights @ v), weights

    return attend


def hopfield_oracle(module: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """One query and one head at a time, by the energy's gradient: xi <- xi - dE / dxi."""
    N = module.num_heads

    def attend(query: Any, keys: Any, values: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        v = heads_of(module, values)
        weights = np.zeros((len(query), N, query.shape[1], keys.shape[1]))
        for b, n, t in np.ndindex(weights.shape[:3]):
            own = slice(n * v.shape[-1], (n + 1) * v.shape[-1])
            seen = np.flatnonzero(mask[b, n, t])
            X = keys[b, seen] @ kernel(module.key)[:, own]
            xi = query[b, t] @ kernel(module.query)[:, own]
            for step in range(module.steps):
                exp = np.exp(module.beta * X @ xi)
                moved = -(xi - sum(e * x for e, x in zip(exp / exp.sum(), X)))
                if step < module.steps - 1:
                    xi = xi + moved
                    if np.linalg.norm(moved) <= 1e-4:
                        exp = np.exp(module.beta * X @ xi)
                        break
            weights[b, n, t, seen] = exp / exp.sum()
        return joined(module, weights @ v), weights

    return attend


def lsh_by_hand() -> tuple[Any, Any]:
    """Two buckets in one dimension are the signs: 1, 2, -3, 4; its own key a query does not read.

    Keys are 1 or -1: the first reads 2 and 4, the third itself alone, since no other is negative.
    """
    attention = ATTENTIONS["lsh"](1, 1, num_buckets=2, chunk=4, rounds=1, rngs=nnx.Rngs(0))
    attention.query.kernel[...] = jnp.ones((1, 1))
    numbers = jnp.asarray([1.0, 2.0, -3.0, 4.0]).reshape(1, 4, 1)
    _, weights = attention(numbers, numbers, return_weights=True)
    half = [[0, 0.5, 0, 0.5], [0.5, 0, 0, 0.5], [0, 0, 1, 0], [0.5, 0.5, 0, 0]]
    return weights[0, 0], half


def lsh_oracle(module: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Lists of buckets, one query at a time; a position is read once, whatever finds it."""
    N = module.num_heads
    shape = (module.rounds, module.dim // N, module.num_buckets // 2)
    rotations = np.asarray(jax.random.normal(jax.random.key(module.seed), shape, jnp.float32))

    def bucket(x: np.ndarray, r: int) -> int:
        turned = x @ rotations[r].astype(np.float64)
        return int(np.argmax([*turned, *-turned]))

    def attend(query: Any, keys: Any, values: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        v = heads_of(module, values)
        weights = np.zeros((len(query), N, query.shape[1], keys.shape[1]))
        mask = np.broadcast_to(mask, weights.shape)
        for b, n in np.ndindex(weights.shape[:2]):
            own = slice(n * v.shape[-1], (n + 1) * v.shape[-1])
            q, k = (x[b] @ kernel(module.query)[:, own] for x in (query, keys))
            for t in range(len(q)):
                found = set()
                for r in range(module.rounds):
                    alike = [
                        s
                        for s in range(len(k))
                        if mask[b, n, :, s].any() and bucket(k[s], r) == bucket(q[t], r)
                    ]
                    chunk = sum(s < t for s in alike) // module.chunk
                    found |= {
                        s for i, s in enumerate(alike) if chunk - 1 <= i // module.chunk <= chunk
                    }
                found = {s for s in found if mask[b, n, t, s]}
                found = sorted(found - {t} if found != {t} else found)
                exp = np.exp([q[t] @ k[s] / np.linalg.norm(k[s]) for s in found])
                weights[b, n, t, found] = exp / exp.sum()
        return joined(module, weights @ v), weights

    return attend


def differential_by_hand() -> tuple[Any, Any]:
    """Softmaxes (3/4, 1/4) and (1/2, 1/2), and lambda = e^(1/4) - 1 + 1/5."""
    attention = ATTENTIONS["differential"](2, 1, rngs=nnx.Rngs(0))
    attention.query.kernel[...] = attention.key.kernel[...] = jnp.diag(jnp.asarray([1.0, 0.0]))
    attention.lambda_vectors[...] = jnp.asarray([[0.5], [0.5], [0.0], [3.0]])
    keys = jnp.asarray([[[np.log(3.0), 1.0], [0.0, 5.0]]], jnp.float32)
    _, weights = attention(jnp.ones((1, 1, 2)), keys, return_weights=True)
    share = np.exp(0.25) - 1 + 0.2
    return weights[0, 0, 0], [3 / 4 - share / 2, 1 / 4 - share / 2]


def differential_oracle(module: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """One query and one head at a time, with the parts of a head cut out of its projections."""
    N, H = module.num_heads, module.head_dim
    a, b, c, d = np.asarray(module.lambda_vectors[...], np.float64)
    start = float(module.lambda_init[...])
    share = np.exp(a @ b) - np.exp(c @ d) + start

    def softmax(scores: np.ndarray) -> np.ndarray:
        exp = np.exp(scores - scores.max())
        return exp / exp.sum()

    def attend(query: Any, keys: Any, values: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        weights = np.zeros((len(query), N, query.shape[1], keys.shape[1]))
        mask = np.broadcast_to(mask, weights.shape)
        contexts = np.zeros((*weights.shape[:3], 2 * H))
        for row, n, t in np.ndindex(weights.shape[:3]):
            seen = np.flatnonzero(mask[row, n, t])
            q = query[row, t] @ kernel(module.query)[:, 2 * n * H : 2 * (n + 1) * H]
            k = keys[row, seen] @ kernel(module.key)[:, 2 * n * H : 2 * (n + 1) * H]
            v = values[row, seen] @ kernel(module.value)[:, 2 * n * H : 2 * (n + 1) * H]
            one, other = softmax(k[:, :H] @ q[:H] / H**0.5), softmax(k[:, H:] @ q[H:] / H**0.5)
            weights[row, n, t, seen] = one - share * other
            context = (one - share * other) @ v
            context /= np.sqrt((context**2).mean() + 1e-6)
            scale = np.asarray(module.head_norm.scale[...], np.float64)
            contexts[row, n, t] = context * scale * (1 - start)
        return joined(module, contexts), weights

    return attend


def forgetting_by_hand() -> tuple[Any, Any]:
    """Equal scores; gates 1/2, 1/3, 1/4: the third sees keys times 1/12, 1/4 and 1."""
    attention = ATTENTIONS["forgetting"](1, 1, rngs=nnx.Rngs(0))
    attention.query.kernel[...] = jnp.zeros((1, 1))
    attention.forget.kernel[...] = jnp.ones((1, 1))  # f = sigmoid(-ln n) = 1 / (n + 1)
    words = -jnp.log(jnp.asarray([[[1.0], [2.0], [3.0]]]))
    _, weights = attention(words, words, return_weights=True)
    return weights[0, 0, 2], np.asarray([1 / 12, 1 / 4, 1]) / (1 / 12 + 1 / 4 + 1)


def forgetting_oracle(module: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """One query at a time, walking back over the keys: each real one multiplies by its gate."""
    N = module.num_heads

    def attend(query: Any, keys: Any, values: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        v = heads_of(module, values)
        weights = np.zeros((len(query), N, query.shape[1], keys.shape[1]))
        mask = np.broadcast_to(mask, weights.shape)
        for b, n, t in np.ndindex(weights.shape[:3]):
            own = slice(n * v.shape[-1], (n + 1) * v.shape[-1])
            q, kept = query[b, t] @ kernel(module.query)[:, own], 1.0
            for s in range(t, -1, -1):
                real = mask[b, n, :, s].any()
                gate = keys[b, s] @ kernel(module.forget)[:, n]
                gate = 1 / (1 + np.exp(-gate - np.asarray(module.forget.bias[...])[n]))
                if real:
                    k = keys[b, s] @ kernel(module.key)[:, own]
                    weights[b, n, t, s] = kept * np.exp(q @ k / np.sqrt(v.shape[-1]))
                    kept *= gate
        weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
        return joined(module, weights @ v), weights

    return attend


def native_sparse_by_hand() -> tuple[Any, Any]:
    """Equal scores, gates of 1/2: the fifth of blocks of two reads blocks 0 and 1, tokens 2, 3, 4.

    Two blocks have 1/4 a token; the own block and the one before 1/3 a token; the window of two
    1/2 a token.
    """
    attention = ATTENTIONS["native_sparse"](1, 1, block=2, selected=2, window=2, rngs=nnx.Rngs(0))
    attention.query.kernel[...] = jnp.zeros((1, 1))
    attention.gates.kernel[...] = jnp.zeros((1, 3))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 1)), jnp.float32)
    _, weights = nnx.jit(lambda m, x: m(x, x, return_weights=True))(attention, x)
    rows = [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0]]
    return weights[0, 0, 4], sum(np.asarray(row) / sum(row) for row in rows) / 2


def native_sparse_oracle(module: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Lists of real positions, one query at a time: their blocks, the best of them, the last."""
    N, K, H, size = module.num_heads, module.num_kv_heads, module.head_dim, module.block

    def affine(layer: Any, x: np.ndarray) -> np.ndarray:
        return x @ kernel(layer) + np.asarray(layer.bias[...], np.float64)

    def compressed(part: Any, rows: np.ndarray) -> np.ndarray:
        x = affine(part.hidden, (rows + np.asarray(part.places[...], np.float64)).ravel())
        cubic = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        return affine(part.out, x / 2 * (1 + np.tanh(cubic)))

    def softmax(scores: np.ndarray) -> np.ndarray:
        exp = np.exp(scores - scores.max())
        return exp / exp.sum()

    def attend(query: Any, keys: Any, values: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        B, T, S = len(query), query.shape[1], keys.shape[1]
        k = (keys @ kernel(module.key)).reshape(B, S, 3, K, H)
        v = (values @ kernel(module.value)).reshape(B, S, 3, K, H)
        weights, contexts = np.zeros((B, N, T, S)), np.zeros((B, N, T, H))
        mask = np.broadcast_to(mask, weights.shape)
        for b, m, t in np.ndindex(B, K, T):
            real = [s for s in range(t + 1) if mask[b, 0, t, s]]
            blocks = [real[i : i + size] for i in range(0, len(real), size)]
            whole = [block for block in blocks if len(block) == size]
            heads = range(m * (N // K), (m + 1) * (N // K))
            q = query[b, t] @ kernel(module.query)
            gates = 1 / (1 + np.exp(-affine(module.gates, query[b, t]).reshape(3, N)))
            block_keys = [compressed(module.compress_keys, k[b, s, 0, m]) for s in whole]
            block_values = [compressed(module.compress_values, v[b, s, 0, m]) for s in whole]
            importance = np.zeros(len(blocks))
            for n in heads if whole else ():
                row = softmax(np.array(block_keys) @ q[n * H : (n + 1) * H] / H**0.5)
                importance[: len(whole)] += row
                contexts[b, n, t] += gates[0, n] * row @ np.array(block_values)
                for share, block in zip(row, whole):
                    weights[b, n, t, block] += gates[0, n] * share / size
            last = len(blocks) - 1
            forced = [i for i in dict.fromkeys((last, last - 1, 0)) if i in range(len(blocks))]
            best = sorted(set(range(len(blocks))) - set(forced), key=lambda i: -importance[i])
            chosen = [s for i in (forced + best)[: module.selected] for s in blocks[i]]
            for branch, seen in ((1, chosen), (2, real[-module.window :])):
                for n in heads if seen else ():
                    row = softmax(k[b, seen, branch, m] @ q[n * H : (n + 1) * H] / H**0.5)
                    contexts[b, n, t] += gates[branch, n] * row @ v[b, seen, branch, m]
                    weights[b, n, t, seen] += gates[branch, n] * row
        return joined(module, contexts), weights

    return attend


@dataclasses.dataclass(frozen=True)
class Case:
    """How to build a module for the kit, and what it lets a query see by itself."""

    arguments: dict[str, Any] | Callable[[nnx.Rngs], dict[str, Any]]
    sizes: ModuleSizes = SIZES
    visible: Callable[[int, int], np.ndarray] | None = None
    except_: dict[str, str] = dataclasses.field(default_factory=dict)
    by_hand: Callable[[], tuple[Any, Any]] | None = None
    """Numbers found, and the same computed by hand."""
    oracle: Callable[[Any], Callable[..., Any]] | None = None
    """From the module to ``reference(query, keys, values, mask)`` in float64, written otherwise."""


# Registry name -> cases; the first word of a case's key is the name.
CASES: dict[str, Case] = {
    "additive": Case({**WIDTHS, "width": 5}),
    "multiplicative general": Case(WIDTHS),
    "multiplicative dot": Case({"query_dim": 11, "key_dim": 11, "score": "dot"}, EQUAL),
    "multiplicative scaled_dot": Case(
        {"query_dim": 11, "key_dim": 11, "score": "scaled_dot"}, EQUAL
    ),
    "multiplicative concat": Case({**WIDTHS, "score": "concat", "width": 5}),
    "location": Case({"query_dim": 11, "max_length": 7}),
    "local_m": Case({**WIDTHS, "window": 2}),
    "local_p": Case({**WIDTHS, "window": 2}),
    "intra_temporal": Case(WIDTHS),
    "coverage": Case({**WIDTHS, "width": 5}, by_hand=coverage_by_hand),
    "none": Case({}),
    "hard": Case(lambda rngs: {"content": AdditiveAttention(11, 13, 5, rngs=rngs)}),
    "multi_head": Case(TWO_HEADS, HEADS),
    "multi_head grouped": Case({"dim": 8, "num_heads": 4, "num_kv_heads": 2}, GROUPED),
    "multi_head rotary causal": Case(
        {**TWO_HEADS, "head_dim": 4, "rotary": Rotary(), "mask_mod": masks.causal()}, SELF, np.tri
    ),
    "differential": Case(
        {"dim": 8, "num_heads": 2},
        GROUPED,
        by_hand=differential_by_hand,
        oracle=differential_oracle,
    ),
    "differential grouped causal": Case(
        {"dim": 8, "num_heads": 2, "num_kv_heads": 1, "mask_mod": masks.causal()}, EIGHT, np.tri
    ),
    "forgetting": Case(
        TWO_HEADS, SELF, np.tri, by_hand=forgetting_by_hand, oracle=forgetting_oracle
    ),
    "forgetting grouped rotary": Case(
        {"dim": 8, "num_heads": 4, "num_kv_heads": 2, "rotary": Rotary()},
        EIGHT,
        np.tri,
    ),
    "latent": Case({**TWO_HEADS, "latent_dim": 5, "rotary_dim": 2, "head_dim": 3}, SELF),
    "cosine": Case(TWO_HEADS, HEADS, by_hand=cosine_by_hand),
    "positional": Case({"dim": 6, "max_length": 7, "num_heads": 2}, SELF, np.tri),
    "factorised_positional": Case(
        {"dim": 6, "max_length": 7, "num_heads": 2, "rank": 3}, SELF, np.tri
    ),
    "synthesizer": Case({"dim": 6, "max_length": 7, "num_heads": 2}, SELF),
    "linear": Case(TWO_HEADS, HEADS),
    "causal_linear": Case(TWO_HEADS, SELF, np.tri),
    "fast_weight": Case(TWO_HEADS, SELF, np.tri),
    "delta_net": Case(TWO_HEADS, SELF, np.tri),
    "delta_net gated": Case({**TWO_HEADS, "gated": True, "max_beta": 2.0}, SELF, np.tri),
    "kimi_delta": Case({**TWO_HEADS, "rank": 2}, SELF, np.tri, by_hand=kimi_delta_by_hand),
    "gated_linear": Case({**TWO_HEADS, "key_width": 6, "rank": 2}, SELF, np.tri),
    "retnet": Case({"dim": 8, "num_heads": 2, "value_width": 6}, EIGHT, np.tri),
    "mab": Case(TWO_HEADS, HEADS),
    "graph": Case(TWO_HEADS, SELF),
    "location_aware": Case(
        {**WIDTHS, "width": 5, "filters": 3, "kernel": 3}, by_hand=location_aware_by_hand
    ),
    "location_aware smoothing": Case(
        {**WIDTHS, "kernel": 5, "normalise": smoothing, "sharpening": 2.0}
    ),
    "location_aware window": Case(
        {**WIDTHS, "kernel": 3, "window": 1},
        except_={"every permitted key is reached": "keys outside of the window are not read"},
    ),
    "linformer": Case(
        {**TWO_HEADS, "max_length": 9, "rank": 3},
        HEADS,
        by_hand=linformer_by_hand,
        oracle=linformer_oracle,
    ),
    "linformer unshared": Case(
        {**TWO_HEADS, "max_length": 7, "rank": 3, "share": "none"}, HEADS, oracle=linformer_oracle
    ),
    "linformer shared": Case(
        {**TWO_HEADS, "max_length": 7, "rank": 3, "share": "all"}, HEADS, oracle=linformer_oracle
    ),
    "hopfield": Case(TWO_HEADS, HEADS, by_hand=hopfield_by_hand, oracle=hopfield_oracle),
    "native_sparse": Case(
        {"dim": 8, "num_heads": 4, "num_kv_heads": 2, "block": 2, "selected": 2, "window": 2},
        ModuleSizes(B=2, T=9, S=9, D=8, D2=8, Dv=8),
        np.tri,
        by_hand=native_sparse_by_hand,
        oracle=native_sparse_oracle,
    ),
    "lsh": Case(
        {**TWO_HEADS, "num_buckets": 2, "chunk": 5, "rounds": 2},
        SELF,
        by_hand=lsh_by_hand,
        oracle=lsh_oracle,
    ),
    "lsh chunks": Case(
        {**TWO_HEADS, "num_buckets": 2, "chunk": 1, "rounds": 3}, SELF, oracle=lsh_oracle
    ),
    "lsh one round": Case(
        {**TWO_HEADS, "num_buckets": 2, "chunk": 2, "rounds": 1}, SELF, oracle=lsh_oracle
    ),
}


def build(name: str) -> Attention:
    """The attention of a case, with its own first parameters."""
    case, cls = CASES[name], ATTENTIONS[name.split()[0]]
    rngs = {"rngs": nnx.Rngs(0)} if "rngs" in inspect.signature(cls.__init__).parameters else {}
    arguments = case.arguments(nnx.Rngs(0)) if callable(case.arguments) else case.arguments
    make: Any = cls
    return make(**arguments, **rngs)
