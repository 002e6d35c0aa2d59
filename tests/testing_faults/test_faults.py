"""Planted faults, and the property of the contract kit that sees each; right ones raise no alarm.

The faults of one attention with all methods are in ``faulty_attention``; further down are faults
in what attentions of this package return.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faulty_attention import Attention, faults
from flax import nnx

from attnzoo import attention
from attnzoo.testing import ContractError, ModuleSizes, check

SIZES = ModuleSizes(B=2, T=5, S=7, D=6, D2=6, Dv=6)
SELF = ModuleSizes(B=2, T=5, S=5, D=6, D2=6, Dv=6)

SEEN_BY: dict[str, list[str]] = {
    "shapes": ["needs numbers, not tracers", "weights shown transposed", "heads last"],
    "deterministic": [
        "counts its calls",
        "first memory kept by shape",
        "first mask kept by shape",
        "first prepared mask kept",
        "other numbers under jit",
    ],
    "same output without weights": [
        "other result without weights",
        "attend reads a memory backwards",
    ],
    "masked weights are zero": [
        "mask of one row for all",
        "mask of one head for all",
        "mask of one query for all",
        "mask columns shifted",
        "mask rows shifted",
        "mask inverted",
        "last query sees all",
        "unmasked weights shown",
        "mean over heads shown",
        "first head shown for all",
        "heads shown in reverse",
        "rows of the batch shown in reverse",
        "queries shown in reverse",
    ],
    "rows sum to one": [
        "masked after the softmax",
        "softmax over queries",
        "softmax over heads",
        "sigmoid",
        "dropout without a key",
        "coarse weights shown",
        "logits shown",
        "weights negated",
    ],
    "weights follow the input": ["uniform weights shown"],
    "every permitted key is reached": ["gradient to values stopped"],
    "causality": ["keys of the first row for all", "later queries read"],
    "fully masked rows": ["a fully masked row is the mean", "a fully masked row is NaN"],
    "masks broadcast": [
        "causal without a mask",
        "last key lost without a mask",
        "only a full mask is read",
    ],
    "a float mask is refused": ["float mask taken"],
    "NaN in padding": ["NaN in keys leaks", "NaN in values leaks", "NaN leaks backwards"],
    "weights explain the context": ["flatter weights shown", "sharper weights shown"],
    "half precision": [
        "softmax in half",
        "no maximum",
        "wide result",
        "weights in the dtype of the query",
    ],
    "large logits": ["-1e4 for -inf", "maximum over the whole batch"],
    "vmap": ["batch mean removed", "wrong with one row"],
    "gradients": [
        "gradient to the q kernel stopped",
        "gradient to the result's kernel stopped",
        "gradient to queries stopped",
        "gradient to keys stopped",
        "gradient to keys doubled",
        "gradient of weights stopped",
        "logits in half",
    ],
    "values default to keys": ["values None are the query", "values None are halved"],
    "empty sequences": ["no result for no query"],
    "short sequences": [
        "wrong with one query",
        "wrong with one key",
        "wrong with more queries than keys",
    ],
    "long sequences": [
        "wrong beyond 128 queries",
        "wrong for 256 keys",
        "keys of the last tile rolled",
        "last partial tile lost",
        "window of 128 keys",
        "decoding sees 64 back",
    ],
    "prepared memory": ["memory without a batch axis"],
    "step by step": [
        "positions of queries ignored",
        "positions off by one where given",
        "position of a step off by one",
        "position of a step ignored",
        "position of the first row for all",
        "position of a step is that of the first row's past",
        "step shows uniform weights",
        "step reads an unmasked memory",
        "a block starts at position 0",
        "a block reads itself in reverse",
        "a block without weights is halved",
    ],
    "positions are places": ["places of keys ignored"],
    "decoding": [
        "one length for the whole cache",
        "cache written a slot too late",
        "cache written where the first row is",
        "a block overwrites its first slot",
        "cache in half",
        "cache values not written",
        "cache changes its dtype",
        "decoding sees a later slot",
        "the cache beyond its length is read",
        "a block is not causal",
        "decoding does not see itself",
        "mask of the cache ignored",
        "mask of the first row for the whole cache",
        "mask of the cache reads queries",
        "positions of decoding from 0",
        "decoding shows weights of the first query",
        "length of a cache not counted in blocks",
        "decoding without weights is halved",
        "decoding in float32",
        "positions of decoding are not those of its keys",
    ],
    "dropout": [
        "dropout key ignored",
        "dropout by a fixed key",
        "dropout not scaled",
        "dropout scaled by the rate",
        "dropout lets padding in",
    ],
    "weights after dropout": ["dropout of the result"],
    # Another attention than was meant, but an attention: no property of its own can tell.
    "reference": ["heads of the keys mixed"],
}
WHERE = {fault: property_ for property_, listed in SEEN_BY.items() for fault in listed}


def oracle(query: Any, keys: Any, values: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """The attention without a fault, head by head in numpy and float64."""
    kernels = {name: np.asarray(x, np.float64) for name, x in Attention().kernels.items()}
    N, H = Attention.N, query.shape[2] // Attention.N
    distance = np.abs(np.arange(query.shape[1])[:, None] - np.arange(keys.shape[1]))
    contexts, weights = [], []
    for n in range(N):
        own = slice(n * H, (n + 1) * H)
        q, k, v = query @ kernels["q"], keys @ kernels["k"], values @ kernels["v"]
        logits = q[..., own] @ np.swapaxes(k[..., own], 1, 2) / H**0.5 - distance / 9
        exp = np.where(mask[:, n], np.exp(logits), 0.0)
        weights.append(exp / exp.sum(-1, keepdims=True))
        contexts.append(weights[-1] @ v[..., own])
    return np.concatenate(contexts, -1) @ kernels["out"], np.stack(weights, 1)


def test_without_a_fault_nothing_is_reported() -> None:
    found = check(Attention(), sizes=SIZES, reference=oracle)
    assert found.named("does not apply") == ["grouped heads"]


def test_each_fault_is_listed_once() -> None:
    assert sorted(WHERE) == sorted(faults())
    assert len(WHERE) == sum(map(len, SEEN_BY.values()))


@pytest.mark.parametrize("fault", WHERE)
def test_a_fault_is_seen_by_its_property(fault: str) -> None:
    with pytest.raises(ContractError) as error:
        check(
            Attention(fault),
            sizes=SIZES,
            reference=oracle if WHERE[fault] == "reference" else None,
            properties=[WHERE[fault]],
            shrink=False,
        )
    assert error.value.broken == WHERE[fault]


def flatter(weights: Any) -> Any:
    positive = jnp.where(weights > 0, jnp.abs(weights) ** 0.25, jnp.zeros_like(weights))
    total = positive.sum(-1, keepdims=True)
    return positive / jnp.where(total == 0, jnp.ones_like(total), total)


def first_head(weights: Any) -> Any:
    return jnp.broadcast_to(weights[:, :1], weights.shape)


def rounded(weights: Any) -> Any:
    return weights.astype(jnp.bfloat16).astype(weights.dtype)


BUILDS: dict[str, tuple[Callable[[nnx.Rngs], Any], ModuleSizes, Any]] = {
    "additive": (lambda rngs: attention.AdditiveAttention(6, 6, 5, rngs=rngs), SIZES, None),
    "multi_head": (lambda rngs: attention.MultiHeadAttention(6, 2, rngs=rngs), SIZES, None),
    "latent": (
        lambda rngs: attention.LatentAttention(
            6, 2, latent_dim=5, rotary_dim=2, head_dim=3, rngs=rngs
        ),
        SELF,
        None,
    ),
    "causal_linear": (
        lambda rngs: attention.CausalLinearAttention(6, 2, rngs=rngs),
        SELF,
        np.tri,
    ),
    "retnet": (
        lambda rngs: attention.RetNetAttention(6, 2, rotary=None, value_width=6, rngs=rngs),
        SELF,
        np.tri,
    ),
    "graph": (lambda rngs: attention.GraphAttention(6, 2, rngs=rngs), SELF, None),
    "mab": (lambda rngs: attention.MAB(6, 2, rngs=rngs), SELF, None),
}


@pytest.mark.parametrize("name", BUILDS)
def test_weights_that_were_not_used_are_seen_of_any_attention(name: str) -> None:
    """Of those with projected values, and with layers that are not linear around them, too."""
    build, sizes, visible = BUILDS[name]
    right = build(nnx.Rngs(0))
    random = np.random.default_rng(0)
    drawn = jax.tree.map(
        lambda x: jnp.asarray(random.standard_normal(x.shape), x.dtype),
        nnx.state(right, nnx.Param),
    )
    nnx.update(right, drawn)
    property_ = "weights explain the context"
    options: dict[str, Any] = {"sizes": sizes, "visible": visible, "properties": [property_]}
    check(right, **options)
    lacking = {"a mask for each query": "a sum over keys"}
    excepted = getattr(right, "contract_exceptions", {})
    declared = lacking if lacking.keys() & excepted.keys() else {}
    for change in (flatter, first_head, rounded):
        if change is first_head and name == "additive":
            continue  # it has one

        def shown(*args: Any, change: Any = change, **keywords: Any) -> Any:
            result = right(*args, **keywords)
            return (result[0], change(result[1])) if isinstance(result, tuple) else result

        with pytest.raises(ContractError, match="other weights were used"):
            check(shown, **options, except_=declared, shrink=False)
