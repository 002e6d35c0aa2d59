"""Every attention of the registry, and the functions below, held to the contract by the kit."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, build
from random_parameters import drawn

from attnzoo import ops
from attnzoo.attention import ATTENTIONS
from attnzoo.ops import linear, masks, score_mods
from attnzoo.ops.guards import finite_or_zero
from attnzoo.testing import PROPERTIES, FunctionSizes, check

# How a class is written, and not with which score or mask, decides these: its first case has them.
OF_THE_CLASS = {
    "deterministic",
    "half precision",
    "jit",
    "vmap",
    "masks broadcast",
    "long sequences",
    "short sequences",
    "empty sequences",
    "values default to keys",
}
OF_THE_CASE = [name for name in PROPERTIES if name not in OF_THE_CLASS]


def first_of_its_class(name: str) -> bool:
    """A recurrence that a class inherits is written in the class that it comes from."""

    def code(case: str) -> Any:
        cls = ATTENTIONS[case.split()[0]]
        return getattr(cls, "recur", cls)

    return name == next(other for other in CASES if code(other) == code(name))


def test_each_attention_has_a_case() -> None:
    missing = set(ATTENTIONS) - {name.split()[0] for name in CASES}
    assert not missing, f"add a case to CASES for {', '.join(sorted(missing))}"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.by_hand])
def test_weights_by_hand(name: str) -> None:
    by_hand = CASES[name].by_hand
    assert by_hand is not None
    found, wanted = by_hand()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_attention_keeps_the_contract(name: str) -> None:
    case = CASES[name]
    module = drawn(lambda: build(name), 0, 0.5)  # what starts at 0 would show nothing
    found = check(
        module,
        sizes=case.sizes,
        visible=case.visible,
        except_=case.except_,
        reference=None if case.oracle is None else case.oracle(module),
        properties=None if first_of_its_class(name) else OF_THE_CASE,
    )
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
SMALL = FunctionSizes(B=2, T=3, S=5, N=2, K=1, H=3, Hv=2)
KEYS_ALONE = {"a mask for each query": "a sum over keys has no mask of pairs"}
UNEVEN = {
    **KEYS_ALONE,
    "rows sum to one": "the weights of an unnormalised recurrence",
    "convex hull": "weights that do not sum to one reach out of it",
}
SIGNED = {**UNEVEN, "weights are not negative": "q . k may be negative"}


def strength(k: jax.Array) -> jax.Array:
    """A write strength in (0, 1) for each key, for the kit knows q, k, v and mask only.

    As a layer does, it reads no NaN in padding, whose gradient would be its own and not ours.
    """
    return jax.nn.sigmoid(finite_or_zero(k)[..., 0])


def forget(k: jax.Array) -> jax.Array:
    """The log-decay of each channel, in the same way."""
    return jax.nn.log_sigmoid(finite_or_zero(k))


def delta_rule(q: Any, k: Any, v: Any, **keywords: Any) -> Any:
    return ops.delta_rule(q, k, v, strength(k), feature_map=linear.elu_plus_one, **keywords)


def delta_net(q: Any, k: Any, v: Any, **keywords: Any) -> Any:
    return ops.delta_net(q, k, v, strength(k), **keywords)


def gated_delta_net(q: Any, k: Any, v: Any, **keywords: Any) -> Any:
    return ops.gated_delta_net(q, k, v, strength(k), forget(k)[..., 1], **keywords)


def gated_linear(q: Any, k: Any, v: Any, **keywords: Any) -> Any:
    return ops.gated_linear_attention(q, k, v, forget(k), **keywords)


def flex(q: Any, k: Any, v: Any, mask: Any = None, **keywords: Any) -> Any:
    """A mask and a score modifier as functions of indices; the causal rule is its own."""
    if mask is not None and mask.dtype != bool:
        raise ValueError(f"mask has dtype {mask.dtype}; wanted bool")
    seen = masks.causal()
    if mask is not None:
        shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
        seen = seen & masks.from_array(jnp.broadcast_to(mask, shape))
    return ops.flex_attention(q, k, v, score_mods.softcap(2.0), seen, **keywords)


# Function -> options, and whether it is the first one of its code.
FUNCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any], bool]] = {
    "dot": (ops.dot_product_attention, {"sizes": SMALL, "reference": dot_product}, True),
    "grouped": (
        ops.dot_product_attention,
        {"sizes": dataclasses.replace(SMALL, N=6, K=3), "reference": dot_product},
        False,
    ),
    "causal": (
        functools.partial(ops.dot_product_attention, is_causal=True),
        {"sizes": SQUARE, "visible": np.tri},
        False,
    ),
    "softcap": (functools.partial(ops.dot_product_attention, softcap=2.0), {"sizes": SMALL}, False),
    "sinks": (
        functools.partial(ops.dot_product_attention, sinks=jnp.asarray([0.5, -1.0])),
        {
            "sizes": SMALL,
            "except_": {
                "rows sum to one": "the sink has the rest",
                "convex hull": "the hull is that of the values and 0",
            },
        },
        False,
    ),
    "flex": (flex, {"sizes": dataclasses.replace(SQUARE, K=1), "visible": np.tri}, True),
    "linear": (
        functools.partial(ops.linear_attention, causal=False),
        {"sizes": dataclasses.replace(SMALL, K=2), "except_": KEYS_ALONE},
        True,
    ),
    "linear causal": (
        ops.linear_attention,
        {"sizes": SQUARE, "visible": np.tri, "except_": KEYS_ALONE},
        True,
    ),
    # The weights of the delta rule may be negative, too, but positive features hardly erase.
    "delta_rule": (delta_rule, {"sizes": SQUARE, "visible": np.tri, "except_": UNEVEN}, False),
    **{
        name: (function, {"sizes": SQUARE, "visible": np.tri, "except_": SIGNED}, False)
        for name, function in {
            "fast weights": ops.fast_weights,
            "delta_net": delta_net,
            "gated_delta_net": gated_delta_net,
            "gated_linear_attention": gated_linear,
            "retention": ops.retention,
        }.items()
    },
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_keeps_the_contract(name: str) -> None:
    function, options, first = FUNCTIONS[name]
    # Gradients, half precision and forms of the linear family: tests/ops/test_linear_attention.py.
    properties = None if first else OF_THE_CASE
    found = check(function, properties=properties, **options)
    assert found.named("unneeded exception") == []
