"""Masks and score modifiers: each against a definition written out in Python loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import ops
from attnzoo.ops import masks, score_mods

DOCUMENTS = [0, 0, 1, 1, 1, 2, 2]
TABLE = np.arange(21, dtype=np.float32).reshape(3, 7)

# What each mask is, for one pair: i the query, j the key.
DEFINITIONS = {
    "full": (masks.full, lambda i, j: True),
    "causal": (masks.causal, lambda i, j: j <= i),
    "sliding_window": (lambda: masks.sliding_window(3), lambda i, j: i - 3 < j <= i),
    "window": (lambda: masks.window(1, 2), lambda i, j: i - 1 <= j <= i + 2),
    "window without end": (lambda: masks.window(None, 1), lambda i, j: j <= i + 1),
    "symmetric_window": (lambda: masks.symmetric_window(2), lambda i, j: abs(i - j) <= 2),
    "prefix_lm": (lambda: masks.prefix_lm(3), lambda i, j: j <= i or j < 3),
    "document": (
        lambda: masks.document(jnp.array(DOCUMENTS)),
        lambda i, j: DOCUMENTS[i] == DOCUMENTS[j],
    ),
    "padding": (
        lambda: masks.padding(jnp.array([[True, False, True, True, False, True, False]])),
        lambda i, j: j in (0, 2, 3, 5),
    ),
    "lengths": (lambda: masks.padding(jnp.array([4])), lambda i, j: j < 4),
    "dilated": (lambda: masks.dilated(3), lambda i, j: (i - j) % 3 == 0),
    "sink_tokens": (lambda: masks.sink_tokens(2), lambda i, j: j < 2),
    "global_tokens": (lambda: masks.global_tokens(2), lambda i, j: i < 2 or j < 2),
    "neighbourhood": (
        lambda: masks.neighbourhood(3, 1),
        lambda i, j: abs(i // 3 - j // 3) <= 1 and abs(i % 3 - j % 3) <= 1,
    ),
    "and or not": (
        lambda: (
            masks.causal() & (masks.sliding_window(2) | masks.sink_tokens(1)) & ~masks.dilated(5)
        ),
        lambda i, j: j <= i and (i - 2 < j <= i or j < 1) and (i - j) % 5 != 0,
    ),
    "offset": (lambda: masks.causal().offset(2), lambda i, j: j <= i + 2),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definition(name):
    make, definition = DEFINITIONS[name]
    wanted = [[definition(i, j) for j in range(7)] for i in range(7)]
    got = jax.jit(lambda mask: mask.to_dense(2, 3, 7, 7))(make())
    assert got.shape == (2, 3, 7, 7)
    assert np.array_equal(got, np.broadcast_to(wanted, (2, 3, 7, 7)))


def test_masks_vary_over_the_batch_and_heads():
    array = jax.random.bernoulli(jax.random.key(0), 0.5, (2, 3, 5, 7))
    assert np.array_equal(masks.from_array(array).to_dense(2, 3, 5, 7), array)
    lengths = masks.padding(jnp.array([2, 5])).to_dense(2, 1, 1, 7)[:, 0, 0]
    assert lengths.sum(axis=1).tolist() == [2, 5]
    prefixes = masks.prefix_lm(jnp.array([0, 7])).to_dense(2, 1, 7, 7)[:, 0]
    assert prefixes.sum(axis=(1, 2)).tolist() == [28, 49]
    heads = masks.random(jax.random.key(1), 0.5, 3, 11, 11).to_dense(2, 3, 11, 11)
    assert not np.array_equal(heads[0, 0], heads[0, 1])
    assert np.array_equal(heads[0], heads[1])


def test_drawing():
    assert masks.sliding_window(2).draw(3) == "█░░\n██░\n░██"
    assert str(masks.causal()).startswith("Causal()\n█░░░░░░░\n")
    assert masks.causal()._repr_html_().startswith("<pre")
    assert score_mods.alibi(jnp.array([0.5])).draw(2) == "  0.00  -0.50\n -0.50   0.00"
    # Inside jit there is nothing to draw, but printing must not fail.
    texts = []
    jax.jit(lambda mask: texts.append(str(mask)))(masks.document(jnp.array(DOCUMENTS)))
    assert texts == ["Document(query_ids=int32[1, 7], key_ids=int32[1, 7])"]


def test_captured_arrays_are_leaves_and_settings_are_structure():
    ids = jnp.array(DOCUMENTS)
    traces = []

    @jax.jit
    def count(mask):
        traces.append(1)
        return mask.to_dense(1, 1, 7, 7).sum()

    assert count(masks.document(ids) & masks.sliding_window(2)) == 11
    assert count(masks.document(0 * ids) & masks.sliding_window(2)) == 13
    assert len(traces) == 1  # other ids, same program
    count(masks.document(ids) & masks.sliding_window(3))
    assert len(traces) == 2  # another window is another program


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: masks.sliding_window(-3),
            "sliding_window: size=-3: wanted an integer of at least 1",
        ),
        (lambda: masks.symmetric_window(-1), "symmetric_window: radius=-1"),
        (lambda: masks.window(-1, 2), "window: left=-1"),
        (lambda: masks.dilated(0), "dilated: step=0"),
        (lambda: masks.padding(jnp.ones((2, 3), jnp.int32)), "padding: got int32 of shape (2, 3)"),
        (
            lambda: masks.document(jnp.array([0, 1])).to_dense(1, 1, 5, 5),
            "document: query ids covers 2 positions, but T has 5",
        ),
        (
            lambda: masks.padding(jnp.array([2, 5])).to_dense(3, 1, 5, 5),
            "padding: lengths has 2 entries on its batch axis; wanted 1 or 3",
        ),
        (lambda: masks.random(jax.random.key(0), 1.5, 1, 2, 2), "keep=1.5"),
        (lambda: score_mods.softcap(0.0), "cap=0.0"),
        (lambda: score_mods.clipped_bias(jnp.ones((3, 4))), "4 columns"),
        (
            lambda: score_mods.relative_bias(jnp.ones((2, 7)), abs).to_dense(1, 3, 2, 2),
            "relative_bias: table has 2 entries on its head axis; wanted 1 or 3",
        ),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_score_mods_by_loops():
    clipped = score_mods.clipped_bias(jnp.asarray(TABLE))
    slopes = np.array([0.5, 0.25, 0.125], np.float32)
    mods = {
        "clipped": (clipped, lambda n, i, j: TABLE[n, np.clip(j - i, -3, 3) + 3]),
        "alibi": (score_mods.alibi(jnp.asarray(slopes)), lambda n, i, j: -slopes[n] * abs(i - j)),
        "distance": (
            score_mods.distance(lambda d: -(d**2) / 8),
            lambda n, i, j: -((i - j) ** 2) / 8,
        ),
        "then": (
            clipped.then(score_mods.temperature(jnp.asarray(slopes))).then(
                score_mods.softcap(50.0)
            ),
            lambda n, i, j: 50 * np.tanh(TABLE[n, np.clip(j - i, -3, 3) + 3] / slopes[n] / 50),
        ),
    }
    for name, (mod, definition) in mods.items():
        wanted = [[[definition(n, i, j) for j in range(11)] for i in range(5)] for n in range(3)]
        got = jax.jit(lambda mod: mod.to_dense(2, 3, 5, 11))(mod)
        np.testing.assert_allclose(got[1], np.array(wanted), rtol=1e-5, err_msg=name)


def test_t5_buckets_of_other_sizes_match_the_formula():
    for both, buckets, longest in ((True, 12, 50), (False, 7, 90), (False, 64, 1000)):
        got = score_mods.t5_bucket(jnp.arange(-1200, 1200), both, buckets, longest)
        count = buckets // 2 if both else buckets
        exact = count // 2
        for relative, bucket in zip(range(-1200, 1200), got.tolist()):
            n, start = -relative, 0
            if both:
                start, n = (count if n < 0 else 0), abs(n)
            n = max(n, 0)
            place = n
            if n >= exact:
                # 1e-9: the boundaries are exact powers, which floats miss from below.
                ratio = np.log(n / exact) / np.log(longest / exact)
                place = min(count - 1, exact + int(ratio * (count - exact) + 1e-9))
            assert bucket == start + place, relative


def test_gradients_flow_to_captured_tables():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 5, 3, 2)) for i in range(3))

    def through_mod(table):
        mod = score_mods.clipped_bias(table)
        return jnp.sum(ops.flex_attention(q, k, v, mod, masks.causal()) ** 2)

    def through_bias(table):
        i, j = np.arange(5)[:, None], np.arange(5)[None, :]
        bias = table[:, np.clip(j - i, -3, 3) + 3][None]
        mask = jnp.asarray(j <= i)[None, None]
        return jnp.sum(ops.dot_product_attention(q, k, v, mask, bias) ** 2)

    table = jnp.asarray(TABLE) / 10
    got, wanted = jax.jit(jax.grad(through_mod))(table), jax.jit(jax.grad(through_bias))(table)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert np.abs(wanted).max() > 1e-3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (masks.sliding_window(7), masks.causal()),
        (masks.prefix_lm(0), masks.causal()),
        (masks.prefix_lm(7), masks.full()),
    ],
)
def test_limits(one, other):
    assert np.array_equal(one.to_dense(1, 1, 7, 7), other.to_dense(1, 1, 7, 7))
