"""Every mechanism between two sequences: the contract, and what its paper says of it alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.attention import (
    AdditiveAttention,
    FixedAttention,
    LocalMonotonicAttention,
    LocalPredictiveAttention,
    LocationAttention,
    MultiplicativeAttention,
)

B, T, S, D, DV = 3, 5, 7, 4, 11
RNG = np.random.default_rng(0)
QUERY = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
KEYS = jnp.asarray(RNG.normal(size=(B, S, D)), jnp.float32)
VALUES = jnp.asarray(RNG.normal(size=(B, S, DV)), jnp.float32)
LENGTHS = np.array([7, 4, 1])
VALID = jnp.asarray(np.arange(S)[None, :] < LENGTHS[:, None])
MASK = VALID[:, None, None, :]

BUILD: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    "additive": lambda rngs: AdditiveAttention(D, D, 13, rngs=rngs),
    "dot": lambda rngs: MultiplicativeAttention(D, D, "dot", rngs=rngs),
    "scaled_dot": lambda rngs: MultiplicativeAttention(D, D, "scaled_dot", rngs=rngs),
    "general": lambda rngs: MultiplicativeAttention(D, D, "general", rngs=rngs),
    "concat": lambda rngs: MultiplicativeAttention(D, D, "concat", width=13, rngs=rngs),
    "location": lambda rngs: LocationAttention(D, 17, rngs=rngs),
    "local_m": lambda rngs: LocalMonotonicAttention(D, D, "general", window=2, rngs=rngs),
    "local_p": lambda rngs: LocalPredictiveAttention(D, D, "general", window=2, rngs=rngs),
    "none": lambda rngs: FixedAttention(),
}
KINDS = pytest.mark.parametrize("kind", list(BUILD))


def build(kind: str, seed: int = 1) -> nnx.Module:
    """A module all of whose weights are of size 1: nothing is hidden by a start at 0."""
    return drawn(lambda: BUILD[kind](nnx.Rngs(0)), seed, 1.0)


def randomise(module: nnx.Module, draw: Callable[[jax.Array], jax.Array]) -> nnx.Module:
    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree.map(draw, state))


def as_function(module: nnx.Module, mask: jax.Array | None):
    """(weights of the module, query, keys, values) -> a number that every output entry moves."""
    graph, state = nnx.split(module)

    def loss(state, query, keys, values):
        context, weights = nnx.merge(graph, state)(
            query, keys, values, mask=mask, return_weights=True
        )
        return jnp.sum(jnp.sin(context)) + jnp.sum(jnp.cos(weights) - 1.0)

    return loss, state


@KINDS
def test_shapes_dtypes_and_weights(kind: str) -> None:
    module = build(kind)
    context, weights = module(QUERY, KEYS, VALUES, mask=MASK, return_weights=True)
    assert context.shape == (B, T, DV)
    assert weights.shape == (B, 1, T, S)
    assert weights.dtype == jnp.float32
    np.testing.assert_array_equal(context, module(QUERY, KEYS, VALUES, mask=MASK))
    # The context is the weights' sum of values, computed here by numpy.
    np.testing.assert_allclose(
        context, np.einsum("bnts,bsd->btd", weights, VALUES), rtol=1e-5, atol=1e-6
    )
    outside = ~np.broadcast_to(MASK, weights.shape)
    assert np.all(np.asarray(weights)[outside] == 0)
    sums = np.asarray(weights).sum(axis=-1)
    if kind == "local_p":
        assert np.all(sums < 1)
    elif kind == "local_m":
        # Row t of sentence b sees nothing once t - window is past the end.
        sees = np.arange(T)[None, :] - 2 < LENGTHS[:, None]
        np.testing.assert_allclose(sums[:, 0], sees, atol=1e-6)
    else:
        np.testing.assert_allclose(sums, 1.0, atol=1e-6)


@KINDS
def test_values_are_the_keys_by_default_and_prepare_attend_is_the_call(kind: str) -> None:
    module = build(kind)
    want, weights = module(QUERY, KEYS, KEYS, mask=MASK, return_weights=True)
    np.testing.assert_array_equal(module(QUERY, KEYS, mask=MASK), want)
    memory = module.prepare(KEYS, mask=MASK)
    for t in range(T):  # one query at a time, as a decoder asks
        positions = jnp.full((B, 1), t, jnp.int32)
        one, row = module.attend(
            QUERY[:, t : t + 1], memory, positions=positions, return_weights=True
        )
        np.testing.assert_allclose(one[:, 0], want[:, t], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(row[:, :, 0], weights[:, :, t], rtol=1e-5, atol=1e-6)


@KINDS
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_padding_holds_never_matters(kind: str, poison: float) -> None:
    loss, state = as_function(build(kind), MASK)
    hole = jnp.where(VALID[:, :, None], jnp.float32(0), jnp.float32(poison))
    clean = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(state, QUERY, KEYS, VALUES)
    dirty = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(state, QUERY, KEYS + hole, VALUES + hole)
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        assert np.all(np.isfinite(b))
        np.testing.assert_array_equal(a, b)
    for gradient in dirty[1][2:]:
        assert np.all(np.asarray(gradient)[~np.asarray(VALID)] == 0)


@KINDS
def test_a_row_that_may_attend_nowhere_is_zero_with_zero_gradients(kind: str) -> None:
    mask = MASK.at[1].set(False)
    module = build(kind)
    context, weights = module(QUERY, KEYS, VALUES, mask=mask, return_weights=True)
    assert np.all(np.asarray(context)[1] == 0)
    assert np.all(np.asarray(weights)[1] == 0)
    loss, state = as_function(module, mask)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(state, QUERY, KEYS, VALUES)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    for gradient in gradients[1:]:
        assert np.all(np.asarray(gradient)[1] == 0)
    # The other sentences do not notice.
    others = np.asarray(module(QUERY, KEYS, VALUES, mask=MASK))
    np.testing.assert_allclose(context[np.array([0, 2])], others[[0, 2]], rtol=1e-6)


@KINDS
def test_masks_broadcast(kind: str) -> None:
    """A mask that is the same for all sentences, and one for all queries, heads and keys."""
    module = build(kind)
    keep = np.arange(S) < 4
    full = jnp.asarray(np.broadcast_to(keep, (B, 1, T, S)))
    want = module(QUERY, KEYS, VALUES, mask=full, return_weights=True)
    got = module(QUERY, KEYS, VALUES, mask=jnp.asarray(keep)[None, None, None], return_weights=True)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    everything = jnp.ones((1, 1, 1, 1), bool)
    for a, b in zip(
        module(QUERY, KEYS, VALUES, mask=everything, return_weights=True),
        module(QUERY, KEYS, VALUES, return_weights=True),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@KINDS
def test_padding_columns_change_nothing(kind: str) -> None:
    """A sentence of 4 tokens alone is what it is in a batch padded to 7 (S in eq. 9 is 4)."""
    module = build(kind)
    context, weights = module(QUERY, KEYS, VALUES, mask=MASK, return_weights=True)
    alone = module(QUERY[1:2], KEYS[1:2, :4], VALUES[1:2, :4], return_weights=True)
    np.testing.assert_allclose(context[1:2], alone[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights[1:2, ..., :4], alone[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["additive", "dot", "general", "concat"])
def test_content_scores_follow_a_permutation_of_the_keys(kind: str) -> None:
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    module = build(kind)
    context, weights = module(QUERY, KEYS, VALUES, return_weights=True)
    moved, moved_weights = module(QUERY, KEYS[:, order], VALUES[:, order], return_weights=True)
    np.testing.assert_allclose(moved, context, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moved_weights, weights[..., order], rtol=1e-5, atol=1e-6)


@KINDS
def test_equal_values_are_returned_whatever_the_weights(kind: str) -> None:
    same = jnp.broadcast_to(VALUES[:, :1], VALUES.shape)
    context, weights = build(kind)(QUERY, KEYS, same, return_weights=True)
    mass = np.asarray(weights)[:, 0].sum(axis=-1)[:, :, None]  # less than 1 in local-p
    np.testing.assert_allclose(context, mass * np.asarray(VALUES)[:, :1], rtol=1e-5, atol=1e-6)


@KINDS
def test_bfloat16_in_bfloat16_out_and_float32_weights(kind: str) -> None:
    module = build(kind)
    want, wanted_weights = module(QUERY, KEYS, VALUES, mask=MASK, return_weights=True)
    half = randomise(module, lambda x: x.astype(jnp.bfloat16))
    inputs = [x.astype(jnp.bfloat16) for x in (QUERY, KEYS, VALUES)]
    context, weights = half(*inputs, mask=MASK, return_weights=True)
    assert context.dtype == jnp.bfloat16
    assert weights.dtype == jnp.float32
    # Logits of size 5 rounded to 8 bits move a weight by some percent; a window may shift by one.
    if kind != "local_p":
        np.testing.assert_allclose(weights, wanted_weights, atol=0.06)
        np.testing.assert_allclose(context.astype(jnp.float32), want, atol=0.2)


def test_additive_starts_uniform_and_its_scores_still_learn() -> None:
    module = AdditiveAttention(D, D, 13, rngs=nnx.Rngs(0))
    _, weights = module(QUERY, KEYS, VALUES, mask=MASK, return_weights=True)
    want = np.asarray(VALID) / LENGTHS[:, None]
    np.testing.assert_allclose(weights[:, 0], np.repeat(want[:, None], T, 1), atol=1e-7)
    loss, state = as_function(module, MASK)
    gradient = jax.grad(loss)(state, QUERY, KEYS, VALUES)
    assert np.any(np.asarray(gradient["score_kernel"][...]) != 0)
    # W_a and U_a wait one update for v_a to leave 0.
    assert np.all(np.asarray(gradient["query_kernel"][...]) == 0)
    deviation = np.std(np.asarray(module.query_kernel[...]))
    assert 0.0005 < deviation < 0.002


def test_general_with_the_identity_is_dot_and_scaled_dot_divides_by_the_root() -> None:
    general, dot = build("general"), build("dot")
    general.kernel = nnx.Param(jnp.eye(D))
    np.testing.assert_allclose(
        general(QUERY, KEYS, VALUES, mask=MASK), dot(QUERY, KEYS, VALUES, mask=MASK), rtol=1e-5
    )
    np.testing.assert_allclose(
        build("scaled_dot")(2.0 * QUERY, KEYS, VALUES), dot(QUERY, KEYS, VALUES), rtol=1e-5
    )


def test_fixed_reads_the_last_real_key() -> None:
    context, weights = build("none")(QUERY, KEYS, VALUES, mask=MASK, return_weights=True)
    last = np.asarray(VALUES)[np.arange(B), LENGTHS - 1]
    np.testing.assert_array_equal(context, np.repeat(last[:, None], T, axis=1))
    want = np.eye(S, dtype=np.float32)[LENGTHS - 1]
    np.testing.assert_array_equal(weights[:, 0], np.repeat(want[:, None], T, axis=1))


def test_location_looks_at_the_query_alone() -> None:
    module = build("location")
    _, weights = module(QUERY, KEYS, VALUES, mask=MASK, return_weights=True)
    _, other = module(QUERY, KEYS * 3.0, VALUES, mask=MASK, return_weights=True)
    np.testing.assert_array_equal(weights, other)
    logits = np.asarray(QUERY) @ np.asarray(module.kernel[...])[:, :S]
    logits = np.where(np.asarray(VALID)[:, None], logits, -np.inf)
    want = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights[:, 0], want, rtol=1e-5)


def test_local_m_window_is_drawn() -> None:
    module = LocalMonotonicAttention(D, D, "dot", window=1, rngs=nnx.Rngs(0))
    _, weights = module(QUERY, KEYS[:, :3], return_weights=True)
    want = [[1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_array_equal(np.asarray(weights)[0, 0] > 0, np.array(want, bool))


def test_a_window_over_everything_is_global_attention() -> None:
    general = build("general")
    want = general(QUERY, KEYS, VALUES, mask=MASK, return_weights=True)
    monotonic = LocalMonotonicAttention(D, D, "general", window=S, rngs=nnx.Rngs(0))
    # Half-width 1e6: the Gaussian over 7 keys is 1 to 1e-10.
    predictive = LocalPredictiveAttention(D, D, "general", window=10**6, rngs=nnx.Rngs(0))
    for module in (monotonic, predictive):
        module.content = general
        for a, b in zip(
            module(QUERY, KEYS, VALUES, mask=MASK, return_weights=True), want, strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_local_p_is_the_window_softmax_times_the_gaussian() -> None:
    """Equations 9 and 10 in a numpy loop; hence never more than the softmax inside the window."""
    module = build("local_p")
    _, weights = module(QUERY, KEYS, VALUES, mask=MASK, return_weights=True)
    q, k = np.asarray(QUERY, np.float64), np.asarray(KEYS, np.float64)
    kernel = np.asarray(module.content.kernel[...], np.float64)
    w_p = np.asarray(module.position_kernel[...], np.float64)
    v_p = np.asarray(module.position_vector[...], np.float64)
    for b in range(B):
        for t in range(T):
            centre = LENGTHS[b] / (1 + np.exp(-np.tanh(q[b, t] @ w_p) @ v_p))
            inside = [s for s in range(LENGTHS[b]) if centre - 2 <= s <= centre + 2]
            exponentials = np.exp([q[b, t] @ kernel @ k[b, s] for s in inside])
            want = np.zeros(S)
            for s, share in zip(inside, exponentials / exponentials.sum(), strict=True):
                want[s] = share * np.exp(-((s - centre) ** 2) / (2 * (2 / 2) ** 2))
            np.testing.assert_allclose(weights[b, 0, t], want, rtol=2e-5, atol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["position_vector", "position_kernel"])
def test_local_p_centre_gradient_is_that_of_finite_differences(name: str) -> None:
    module = randomise(build("local_p"), lambda x: x.astype(jnp.float64))
    query, keys, values = (jnp.asarray(np.asarray(x, np.float64)) for x in (QUERY, KEYS, VALUES))
    loss, state = as_function(module, MASK)
    leaf = np.asarray(state[name][...])
    compiled = jax.jit(loss)

    def at(value: np.ndarray) -> float:
        changed = jax.tree.map(lambda x: x, state)
        changed[name][...] = jnp.asarray(value)
        return float(compiled(changed, query, keys, values))

    gradient = np.asarray(jax.grad(loss)(state, query, keys, values)[name][...])
    assert np.abs(gradient).max() > 1e-3
    for index in np.ndindex(leaf.shape):
        step = np.zeros_like(leaf)
        step[index] = 1e-6
        difference = (at(leaf + step) - at(leaf - step)) / 2e-6
        np.testing.assert_allclose(gradient[index], difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MultiplicativeAttention(3, 5, "dot", rngs=nnx.Rngs(0)),
            "query_dim=3 and key_dim=5",
        ),
        (
            lambda: LocalMonotonicAttention(D, D, window=0, rngs=nnx.Rngs(0)),
            "window=0; wanted a half-width of at least 1",
        ),
        (
            lambda: build("additive")(QUERY, KEYS, VALUES[:, :3]),
            r"values has batch and length \(3, 3\), keys has \(3, 7\)",
        ),
        (lambda: build("dot")(QUERY, KEYS, mask=MASK[..., :3]), r"mask has shape \(3, 1, 1, 3\)"),
        (
            lambda: LocationAttention(D, 6, rngs=nnx.Rngs(0))(QUERY, KEYS),
            "S=7.*max_length=6; raise max_length",
        ),
    ],
)
def test_what_does_not_fit_is_named(make: Callable[[], object], message: str) -> None:
    """As users see it: the checker of shapes, which speaks first in the tests, is off."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            make()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
