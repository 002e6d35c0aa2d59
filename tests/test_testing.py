"""The contract kit on attentions with one planted fault each: it has to name the right property."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import testing
from attnzoo.testing import ContractError, FunctionSizes, ModuleSizes, check, report
from attnzoo.testing.subject import Broken, expect


def attend(
    q: Any, k: Any, v: Any, mask: Any = None, return_weights: bool = False, *, fault: str = ""
) -> Any:
    """Grouped-query attention as it should be, but for one fault."""
    B, T, N, H = q.shape
    S, K = k.shape[1:3]
    if mask is None:
        mask = jnp.ones((1, 1, 1, 1), bool)
    if mask.dtype != bool and fault != "float mask":
        raise ValueError(f"mask has dtype {mask.dtype}; wanted bool")
    mask = jnp.broadcast_to(mask.astype(bool), (B, N, T, S))
    match fault:
        case "mask off by one":
            mask = jnp.roll(mask, 1, axis=-1)
        case "mask inverted":
            mask = ~mask
        case "mask ignored":
            mask = jnp.ones_like(mask)
        case "causal":
            mask = mask & jnp.tri(T, S, dtype=bool)[None, None]
        case "causal off by one":
            mask = mask & jnp.tri(T, S, 1, dtype=bool)[None, None]
        case "strictly causal":
            mask = mask & jnp.tri(T, S, -1, dtype=bool)[None, None]
        case "one row of the batch":
            k = jnp.broadcast_to(k[:1], k.shape)
    if fault != "NaN leaks":
        seen = jnp.any(mask, axis=(1, 2))[:, :, None, None]
        k, v = (jnp.where(seen, x, jnp.zeros_like(x)) for x in (k, v))
    heads = jnp.arange(N) % K if fault == "heads mixed up" else jnp.arange(N) // (N // K)
    wide = jnp.float64 if q.dtype == jnp.float64 else jnp.float32
    logits = jnp.einsum("btnh,bsnh->bnts", q.astype(wide), k[:, :, heads].astype(wide))
    logits = logits if fault == "no scale" else logits * H**-0.5
    logits = logits.astype(q.dtype) if fault == "softmax in half" else logits
    logits = jnp.where(mask, logits, -1e9 if fault == "-1e9" else -jnp.inf)
    axis = -2 if fault == "softmax over queries" else -1
    top = jnp.max(logits, axis, keepdims=True)
    top = jnp.where((top == -jnp.inf) | (fault == "no maximum"), jnp.zeros_like(top), top)
    exp = jnp.exp(logits - jax.lax.stop_gradient(top))
    total = jnp.sum(exp, axis, keepdims=True)
    weights = exp / (total if fault == "0 / 0" else jnp.where(total == 0, 1, total).astype(wide))
    if fault == "dropout":
        keep = jax.random.bernoulli(jax.random.key(0), 0.8, weights.shape)
        weights = jnp.where(keep, weights / 0.8, jnp.zeros_like(weights))
    if fault == "gradient stopped":
        weights = jax.lax.stop_gradient(weights)
    if fault == "branch on values" and float(jnp.sum(weights)) < 0:
        raise AssertionError
    values = v[:, :, heads].astype(wide)
    out = jnp.einsum("bnts,bsnh->btnh", weights.astype(wide), values)
    out = out if fault == "wide output" else out.astype(q.dtype)
    if fault == "other output without weights" and not return_weights:
        out = out * 1.001
    weights = weights.astype(jnp.float32)
    weights = jnp.swapaxes(weights, 2, 3) if fault == "weights transposed" else weights
    return (out, weights) if return_weights else out


def planted(fault: str) -> Callable[..., Any]:
    @functools.wraps(attend)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        return attend(*args, **kwargs, fault=fault)

    return faulty


def oracle(q: Any, k: Any, v: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same by loops, in float64."""
    B, T, N, H = q.shape
    S, K, Hv = v.shape[1:]
    out, weights = np.zeros((B, T, N, Hv)), np.zeros((B, N, T, S))
    for b, t, n in np.ndindex(B, T, N):
        head = n // (N // K)
        for s in np.flatnonzero(mask[b, n, t]):
            weights[b, n, t, s] = np.exp(q[b, t, n] @ k[b, s, head] / np.sqrt(H))
        weights[b, n, t] /= max(weights[b, n, t].sum(), 1e-300)
        for s in range(S):
            out[b, t, n] += weights[b, n, t, s] * v[b, s, head]
    return out, weights


# H is large enough for unscaled logits to differ; T = S lets a transposition keep the shape.
SIZES = FunctionSizes(B=2, T=3, S=5, N=4, K=2, H=5, Hv=2)
SQUARE = dataclasses.replace(SIZES, T=5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_a_fault_everything_holds(dtype: Any) -> None:
    found = check(planted(""), sizes=SIZES, reference=oracle, dtype=dtype)
    assert found.named("does not apply") == [
        "values default to keys",
        *("prepared memory", "step by step", "positions are places", "decoding"),
        *("dropout", "weights after dropout"),
    ]
    others = set(testing.PROPERTIES) - set(found.named("does not apply"))
    assert set(found.named("held")) == others


@pytest.mark.parametrize(
    ("fault", "property_", "sizes"),
    [
        ("mask off by one", "masked weights are zero", SIZES),
        ("mask inverted", "masked weights are zero", SIZES),
        ("mask ignored", "masked weights are zero", SIZES),
        ("weights transposed", "shapes", SIZES),
        ("weights transposed", "masked weights are zero", SQUARE),
        ("softmax over queries", "rows sum to one", SIZES),
        ("dropout", "rows sum to one", SIZES),
        ("-1e9", "fully masked rows", SIZES),
        ("0 / 0", "fully masked rows", SIZES),
        ("float mask", "a float mask is refused", SIZES),
        ("NaN leaks", "NaN in padding", SIZES),
        ("strictly causal", "rows sum to one", SIZES),
        ("one row of the batch", "causality", SIZES),
        ("heads mixed up", "grouped heads", SIZES),
        ("softmax in half", "half precision", SIZES),
        ("wide output", "half precision", SIZES),
        ("no maximum", "large logits", SIZES),
        ("gradient stopped", "gradients", SIZES),
        ("branch on values", "shapes", SIZES),
        ("other output without weights", "same output without weights", SIZES),
        ("no scale", "reference", SIZES),
    ],
)
def test_a_planted_fault_is_named(fault: str, property_: str, sizes: FunctionSizes) -> None:
    before = list(testing.PROPERTIES)[: list(testing.PROPERTIES).index(property_) + 1]
    # What else stands above it in the list is left out: each property costs compilations.
    tested = [*before[:6], *before[6:][-1:]]
    with pytest.raises(ContractError) as error:
        check(planted(fault), sizes=sizes, reference=oracle, properties=tested, shrink=False)
    assert error.value.broken == property_
    assert str(error.value).startswith(f"{property_}: broken by attend\n")
    assert error.value.report.named("BROKEN") == [property_]


@pytest.mark.parametrize("visible", [None, lambda T, S: np.tri(T, S, dtype=bool)])
def test_causal_off_by_one_breaks_causality(visible: Any) -> None:
    # With a mask that forbids the same, its own error does not show; alone it does.
    options: dict[str, Any] = {"sizes": SIZES, "visible": visible, "shrink": False}
    if visible is not None:
        options["except_"] = {"mask": "for this test: the attention's own rule is all there is"}
    check(planted("causal"), properties=["causality"], **options)
    if visible is not None:
        with pytest.raises(ContractError, match=r"gradient of row t to keys s > t at"):
            check(planted("causal off by one"), properties=["causality"], **options)
        with pytest.raises(ContractError, match="gradient 0 to values"):
            check(
                planted("strictly causal"),
                properties=["every permitted key is reached"],
                **options,
            )


def test_hidden_state_is_seen() -> None:
    calls = []

    def counting(q: Any, k: Any, v: Any, mask: Any = None, return_weights: bool = False) -> Any:
        calls.append(1)
        return attend(q * len(calls), k, v, mask, return_weights)

    with pytest.raises(ContractError) as error:
        check(counting, sizes=SIZES, properties=["deterministic"], shrink=False)
    assert error.value.broken == "deterministic"


def test_the_smallest_case_is_found_and_shown() -> None:
    with pytest.raises(ContractError) as error:
        check(planted("mask ignored"), sizes=SIZES, properties=["masked weights are zero"])
    # One masked key needs a second key that is not masked.
    assert error.value.sizes == FunctionSizes(B=1, T=1, S=2, N=1, K=1, H=1, Hv=1)
    inputs = error.value.inputs
    assert inputs is not None
    assert inputs.mask is not None
    assert inputs.mask.tolist() == [[[[True, False]]]]
    shown = str(error.value)
    assert "case: B=1 T=1 S=2 N=1 K=1 H=1 Hv=1 seed=0" in shown
    assert "mask = [[[[1, 0]]]]" in shown
    exp = np.exp(inputs.query.item() * inputs.keys.ravel())
    number = re.search(r"weights\[0, 0, 0, 1\] is (\S+); wanted 0 \(exactly", shown)
    assert number is not None
    assert float(number[1]) == pytest.approx(exp[1] / exp.sum(), rel=1e-5)


def test_heads_need_two_groups_to_be_mixed_up() -> None:
    with pytest.raises(ContractError) as error:
        check(planted("heads mixed up"), sizes=SIZES, properties=["grouped heads"])
    sizes = error.value.sizes
    assert isinstance(sizes, FunctionSizes)
    assert (sizes.B, sizes.T, sizes.N, sizes.K) == (1, 1, 4, 2)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass
class Bilinear:
    """A module without flax: softmax(q W k)."""

    kernel: Any
    broken_gradient: bool = False

    def __call__(
        self, query: Any, keys: Any, values: Any, *, mask: Any = None, return_weights: bool = False
    ) -> Any:
        kernel = jax.lax.stop_gradient(self.kernel) if self.broken_gradient else self.kernel
        projected = jnp.einsum("btd,de->bte", query, kernel)
        out = attend(projected[:, :, None], keys[:, :, None], values[:, :, None], mask, True)
        return (out[0][:, :, 0], out[1]) if return_weights else out[0][:, :, 0]

    def tree_flatten(self) -> Any:
        return [self.kernel], self.broken_gradient

    @classmethod
    def tree_unflatten(cls, broken: Any, children: Any) -> "Bilinear":
        return cls(*children, broken)


KERNEL = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)), jnp.float32)
MODULE = ModuleSizes(B=2, T=3, S=5, D=3, D2=5, Dv=2)


HALF = {"rows sum to one": "it halves its weights, to be tested"}


class Half(Bilinear):
    contract_exceptions = HALF

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = super().__call__(*args, **kwargs)
        return jax.tree.map(lambda array: array / 2, result)


def test_a_module_of_another_library_with_its_parameters() -> None:
    found = check(Bilinear(KERNEL), sizes=MODULE)
    lacking = found.named("does not apply")
    assert {"grouped heads", "reference", "prepared memory", "decoding", "dropout"} <= set(lacking)
    assert {"weights explain the context", "long sequences"} <= set(found.named("held"))
    with pytest.raises(ContractError, match="directional derivative along the parameters"):
        check(Bilinear(KERNEL, True), sizes=MODULE, properties=["gradients"], shrink=False)


def test_a_module_that_raises_is_not_shown_at_widths_that_it_cannot_have() -> None:
    class Raising(Bilinear):
        def __call__(self, query: Any, keys: Any, *rest: Any, **keywords: Any) -> Any:
            if (query.shape[2], keys.shape[2]) != (3, 5):
                raise ValueError("widths")
            if query.shape[1] > 1:
                raise ValueError("more than one query")
            return super().__call__(query, keys, *rest, **keywords)

    with pytest.raises(ContractError, match="raised ValueError: more than one query") as error:
        check(Raising(KERNEL), sizes=MODULE, properties=["shapes"])
    assert error.value.sizes == ModuleSizes(B=1, T=2, S=1, D=3, D2=5, Dv=2)


def test_the_smallest_case_of_a_module_has_the_widths_of_its_parameters() -> None:
    """jnp.einsum broadcasts a width of 1, which is another module than the one that was built."""
    halved = jax.tree_util.register_pytree_node_class(type("Halved", (Half,), {}))
    halved.contract_exceptions = {}
    with pytest.raises(ContractError) as error:
        check(halved(KERNEL), sizes=MODULE, properties=["rows sum to one"])
    assert error.value.sizes == ModuleSizes(B=1, T=1, S=1, D=3, D2=5, Dv=2)


def test_parameters_of_zero_show_nothing_and_the_kit_says_so() -> None:
    with pytest.raises(ContractError, match="give the parameters values that are not zero"):
        check(
            Bilinear(0.0 * KERNEL),
            sizes=MODULE,
            properties=["rows sum to one", "weights follow the input"],
            shrink=False,
        )


def test_exceptions_need_a_reason_and_have_to_be_true() -> None:
    names = ["rows sum to one", "weights are not negative"]
    jax.tree_util.register_pytree_node_class(Half)
    found = check(Half(KERNEL), sizes=MODULE, properties=names)
    assert [result.status for result in found.results.values()] == ["excepted", "held"]
    assert str(found).splitlines() == [
        "| Half | | |",
        "|---|---|---|",
        "| rows sum to one | excepted | it halves its weights, to be tested |",
        "| weights are not negative | held |  |",
    ]
    with pytest.raises(ContractError, match="holds it, though excepted with the reason 'it halves"):
        check(Bilinear(KERNEL), sizes=MODULE, properties=names, except_=HALF)
    # What a class declares may be needed by some of its objects only.
    declared = report(Bilinear(KERNEL), sizes=MODULE, properties=names, except_=HALF)
    assert declared.named("unneeded exception") == ["rows sum to one"]
    with pytest.raises(ValueError, match="has no reason"):
        check(Bilinear(KERNEL), sizes=MODULE, except_={"jit": " "})
    with pytest.raises(ValueError, match="did you mean 'rows sum to one'"):
        check(Bilinear(KERNEL), sizes=MODULE, except_={"rows sum to 1": "why"})
    with pytest.raises(ValueError, match=r"properties names 'jot'.* did you mean 'jit'"):
        check(Bilinear(KERNEL), sizes=MODULE, properties=["jot"])


def test_what_an_attention_lacks_may_be_declared() -> None:
    def plain(q: Any, k: Any, v: Any) -> Any:
        return attend(q, k, v)

    lacking = {"weights on request": "a kernel without them", "mask": "it takes none"}
    names = ["shapes", "rows sum to one", "NaN in padding", "keys are exchangeable", "vmap"]
    found = check(plain, sizes=SIZES, properties=names, except_=lacking)
    assert found.named("held") == ["shapes", "keys are exchangeable", "vmap"]
    with pytest.raises(ContractError, match="raised TypeError"):
        check(plain, sizes=SIZES, properties=["shapes"], shrink=False)


def test_the_page_lists_the_properties_as_they_are() -> None:
    page = Path(__file__).parent.parent.joinpath("docs", "testing.md").read_text("utf-8")
    rows = [f"| {name} | {test.meaning} |" for name, test in testing.PROPERTIES.items()]
    assert "\n".join(rows) in page


@pytest.mark.parametrize(
    ("got", "wanted", "told"),
    [
        (np.nan, np.nan, r"x\[0\] is nan; wanted a number; it is compared with nan \(up to"),
        (2.0, np.nan, r"x\[0\] is 2; wanted a number; it is compared with nan"),
        (np.nan, 3.0, r"x\[0\] is nan; wanted 3 "),
    ],
)
def test_what_is_no_number_is_told_as_such(got: float, wanted: float, told: str) -> None:
    with pytest.raises(Broken, match=told):
        expect("x", np.asarray([got]), wanted, 1e-3)
