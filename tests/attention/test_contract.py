"""Every attention of the registry, and the functions below, held to the contract by the kit."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import ops
from attnzoo.attention import ATTENTIONS, AdditiveAttention, Rotary
from attnzoo.ops import masks
from attnzoo.testing import FunctionSizes, ModuleSizes, check

SIZES = ModuleSizes(B=2, T=5, S=7, D=11, D2=13, Dv=3)
EQUAL = ModuleSizes(B=2, T=5, S=7, D=11, D2=11, Dv=3)
SELF = ModuleSizes(B=2, T=5, S=5, D=6, D2=6, Dv=6)
HEADS = ModuleSizes(B=2, T=5, S=7, D=6, D2=6, Dv=6)
GROUPED = ModuleSizes(B=2, T=5, S=7, D=8, D2=8, Dv=8)
WIDTHS = {"query_dim": 11, "key_dim": 13}
TWO_HEADS = {"dim": 6, "num_heads": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    """How to build a module for the kit, and what it lets a query see by itself."""

    arguments: dict[str, Any] | Callable[[nnx.Rngs], dict[str, Any]]
    sizes: ModuleSizes = SIZES
    visible: Callable[[int, int], np.ndarray] | None = None
    except_: dict[str, str] = dataclasses.field(default_factory=dict)


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
    "none": Case({}),
    "hard": Case(lambda rngs: {"content": AdditiveAttention(11, 13, 5, rngs=rngs)}),
    "multi_head": Case(TWO_HEADS, HEADS),
    "multi_head grouped": Case({"dim": 8, "num_heads": 4, "num_kv_heads": 2}, GROUPED),
    "multi_head rotary causal": Case(
        {**TWO_HEADS, "head_dim": 4, "rotary": Rotary(), "mask_mod": masks.causal()}, SELF, np.tri
    ),
    "latent": Case({**TWO_HEADS, "latent_dim": 5, "rotary_dim": 2, "head_dim": 3}, SELF),
    "positional": Case({"dim": 6, "max_length": 7, "num_heads": 2}, SELF, np.tri),
    "factorised_positional": Case(
        {"dim": 6, "max_length": 7, "num_heads": 2, "rank": 3}, SELF, np.tri
    ),
    "synthesizer": Case({"dim": 6, "max_length": 7, "num_heads": 2}, SELF),
    "linear": Case(TWO_HEADS, HEADS),
    "causal_linear": Case(TWO_HEADS, SELF, np.tri),
    "fast_weight": Case(TWO_HEADS, SELF, np.tri),
    "mab": Case(TWO_HEADS, HEADS),
    "graph": Case(TWO_HEADS, SELF),
}


def drawn(module: nnx.Module) -> nnx.Module:
    """The module with parameters drawn anew: what starts at 0 would show nothing."""
    random = np.random.default_rng(0)
    parameters = jax.tree.map(
        lambda x: jnp.asarray(0.5 * random.standard_normal(x.shape), x.dtype),
        nnx.state(module, nnx.Param),
    )
    nnx.update(module, parameters)
    return module


# Their heads end in a norm, which makes a constant of a width of 1: the kit, which shrinks sizes to
# find the smallest case, does not fit them yet. Their oracles are in test_fast_weight.py.
NORMALISED_HEADS = {"delta_net", "gated_linear", "retnet"}


def test_each_attention_has_a_case() -> None:
    missing = set(ATTENTIONS) - {name.split()[0] for name in CASES} - NORMALISED_HEADS
    assert not missing, f"add a case to CASES for {', '.join(sorted(missing))}"


@pytest.mark.parametrize("name", CASES)
def test_attention_keeps_the_contract(name: str) -> None:
    case, cls = CASES[name], ATTENTIONS[name.split()[0]]
    rngs = {"rngs": nnx.Rngs(0)} if "rngs" in inspect.signature(cls.__init__).parameters else {}
    arguments = case.arguments(nnx.Rngs(0)) if callable(case.arguments) else case.arguments
    build: Any = cls
    module = drawn(build(**arguments, **rngs))
    found = check(module, sizes=case.sizes, visible=case.visible, except_=case.except_)
    # Signed weights may happen to be positive for the numbers drawn here: no fault.
    assert set(found.named("unneeded exception")) <= {"weights are not negative"}


def dot_product(q: Any, k: Any, v: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """softmax(q k^T / sqrt(H)) v in float64, one head after the other."""
    group = q.shape[2] // k.shape[2]
    contexts, weights = [], []
    for n in range(q.shape[2]):
        exp = np.exp(q[:, :, n] @ np.swapaxes(k[:, :, n // group], 1, 2) / q.shape[3] ** 0.5)
        exp = np.where(mask[:, n], exp, 0.0)
        weights.append(exp / exp.sum(-1, keepdims=True))
        contexts.append(weights[-1] @ v[:, :, n // group])
    return np.stack(contexts, 2), np.stack(weights, 1)


SQUARE = FunctionSizes(B=2, T=5, S=5, N=2, K=2, H=3, Hv=7)
KEYS_ALONE = {"a mask for each query": "a sum over keys has no mask of pairs"}


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (ops.dot_product_attention, {"reference": dot_product}),
        (ops.dot_product_attention, {"sizes": FunctionSizes(N=3, K=1), "reference": dot_product}),
        (
            functools.partial(ops.dot_product_attention, is_causal=True),
            {"sizes": SQUARE, "visible": np.tri},
        ),
        (
            functools.partial(ops.dot_product_attention, softcap=2.0),
            {"sizes": FunctionSizes(N=2, K=1)},
        ),
        (
            functools.partial(ops.dot_product_attention, sinks=jnp.asarray([0.5, -1.0])),
            {
                "sizes": FunctionSizes(N=2, K=1),
                "except_": {
                    "rows sum to one": "the sink has the rest",
                    "convex hull": "the hull is that of the values and 0",
                },
            },
        ),
        (
            functools.partial(ops.linear_attention, causal=False),
            {"sizes": FunctionSizes(N=2, K=2), "except_": KEYS_ALONE},
        ),
        (ops.linear_attention, {"sizes": SQUARE, "visible": np.tri, "except_": KEYS_ALONE}),
    ],
    ids=["dot", "multi-query", "causal", "softcap", "sinks", "linear", "linear causal"],
)
def test_function_keeps_the_contract(function: Callable[..., Any], options: Any) -> None:
    found = check(function, **{"sizes": FunctionSizes(), **options})
    assert found.named("unneeded exception") == []
