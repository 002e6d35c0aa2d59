# Over 400 lines: one oracle and one list of members, to which every test holds them.
"""The linear family: one contract for all members and forms, against loops in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads

from attnzoo.ops import linear

B, T, N, H, HV = 2, 37, 3, 5, 7
FORMS = {
    "recurrent": {"form": "recurrent"},
    "parallel": {"form": "parallel"},
    "chunks of 8": {"form": "chunked", "chunk_size": 8},
    "the chosen one": {"chunk_size": 8},
}


def inputs(dtype=np.float64, T=T):
    draw = np.random.default_rng(0)
    q, k = (draw.normal(size=(B, T, N, H)) for _ in range(2))
    v = draw.normal(size=(B, T, N, HV))
    beta = draw.uniform(size=(B, T, N))
    gate, gates = -draw.exponential(size=(B, T, N)), -draw.exponential(size=(B, T, N, H))
    return [jnp.asarray(x, dtype) for x in (q, k, v, beta, gate, gates)]


def unit(x):
    return x / np.linalg.norm(x)


def elu1(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


# name: (our function of q, k, v, beta, gate, gates; what it writes and reads, for one position)
MEMBERS = {
    "linear_attention": (
        lambda q, k, v, b, g, gs, **kw: linear.linear_attention(q, k, v, **kw),
        {"phi": elu1, "normalise": True},
    ),
    "fast weights of 1991": (
        lambda q, k, v, b, g, gs, **kw: linear.linear_attention(
            q, k, v, feature_map=linear.identity, normalise=False, **kw
        ),
        {},
    ),
    "retention": (
        lambda q, k, v, b, g, gs, **kw: linear.retention(q, k, v, **kw),
        {"decay": lambda n, g, gs: 1 - 2.0 ** (-5 - n), "scale": 1 / math.sqrt(H)},
    ),
    "gated_linear_attention": (
        lambda q, k, v, b, g, gs, **kw: linear.gated_linear_attention(q, k, v, gs, **kw),
        {"decay": lambda n, g, gs: np.exp(gs)[:, None], "scale": 1 / math.sqrt(H)},
    ),
    "delta_rule": (
        lambda q, k, v, b, g, gs, **kw: linear.delta_rule(
            q, k, v, b, feature_map=linear.elu_plus_one, **kw
        ),
        {"phi": lambda x: elu1(x) / elu1(x).sum(), "delta": True},
    ),
    "delta_net": (
        lambda q, k, v, b, g, gs, **kw: linear.delta_net(q, k, v, b, **kw),
        {"phi": unit, "delta": True},
    ),
    "gated_delta_net": (
        lambda q, k, v, b, g, gs, **kw: linear.gated_delta_net(q, k, v, b, g, **kw),
        {"phi": unit, "delta": True, "decay": lambda n, g, gs: np.exp(g)},
    ),
    "kimi_delta": (
        lambda q, k, v, b, g, gs, **kw: linear.kimi_delta(q, k, v, b, gs, **kw),
        {"phi": unit, "delta": True, "decay": lambda n, g, gs: np.exp(gs)[:, None]},
    ),
}


def oracle(arrays, mask=None, phi=lambda x: x, decay=None, delta=False, normalise=False, scale=1.0):
    q, k, v, beta, gate, gates = (np.asarray(x, np.float64) for x in arrays)
    B, T, N, _ = q.shape
    out = np.zeros((B, T, N, v.shape[3]))
    for b, n in np.ndindex(B, N):
        memory, total = 0.0, 0.0
        for t in range(T):
            if mask is None or mask[b, t]:
                key = phi(k[b, t, n])
                if decay is not None:
                    memory = memory * decay(n, gate[b, t, n], gates[b, t, n])
                write = v[b, t, n]
                if delta:
                    write = beta[b, t, n] * (write - key @ (memory + np.zeros((len(key), 1))))
                memory = memory + np.outer(key, write)
                total = total + key
            query = phi(q[b, t, n])
            read = query @ memory if np.ndim(memory) else np.zeros(v.shape[3])
            out[b, t, n] = scale * read / (query @ total if normalise and np.ndim(total) else 1)
    return out


def run(name, *arrays, **keywords):
    return jax.jit(functools.partial(MEMBERS[name][0], **keywords))(*arrays)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MEMBERS)
def test_oracle_and_weights(name, form):
    arrays = inputs()
    wanted = oracle(arrays, **MEMBERS[name][1])
    if form != "parallel":
        np.testing.assert_allclose(run(name, *arrays, **FORMS[form]), wanted, atol=1e-10)
        return
    out, weights = run(name, *arrays, return_weights=True, **FORMS[form])
    np.testing.assert_allclose(out, wanted, atol=1e-10)
    np.testing.assert_allclose(jnp.einsum("bnts,bsnv->btnv", weights, arrays[2]), out, atol=1e-10)
    assert np.all(np.triu(weights, 1) == 0)
    if MEMBERS[name][1].get("normalise"):
        np.testing.assert_allclose(weights.sum(axis=-1), np.ones((B, N, T)), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in MEMBERS),
        ("retention", "bfloat16"),
        ("delta_net", "bfloat16"),
    ],
)
def test_low_precision(name, dtype):
    arrays = inputs(dtype)
    out, state = run(name, *arrays, return_state=True)
    assert (out.dtype, state.dtype) == (dtype, "float32")
    wanted = oracle(arrays, **MEMBERS[name][1])
    tolerance = {"float32": 2e-5, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(
        np.asarray(out, np.float64), wanted, atol=tolerance * np.abs(wanted).max()
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MEMBERS)
def test_continuing_from_a_state(name):
    """Two pieces, and then single positions, give what the whole gives."""
    arrays = inputs()
    whole, last = run(name, *arrays, return_state=True, chunk_size=8)
    first, state = run(name, *(x[:, :17] for x in arrays), return_state=True, chunk_size=8)
    rest, end = run(
        name, *(x[:, 17:] for x in arrays), initial_state=state, return_state=True, chunk_size=8
    )
    np.testing.assert_allclose(jnp.concatenate([first, rest], axis=1), whole, atol=1e-12)
    np.testing.assert_allclose(end, last, atol=1e-12)
    step = jax.jit(functools.partial(MEMBERS[name][0], form="recurrent", return_state=True))
    for t in range(17, 20):
        out, state = step(*(x[:, t : t + 1] for x in arrays), initial_state=state)
        np.testing.assert_allclose(out, whole[:, t : t + 1], atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "chunks of 8") for name in MEMBERS), ("gated_delta_net", "recurrent")],
)
def test_gradients(name, form):
    arrays = [x[:1, :11, :2] for x in inputs()]
    function = jax.jit(functools.partial(MEMBERS[name][0], return_state=True, **FORMS[form]))
    check_grads(function, arrays, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", ["recurrent", "chunks of 8"])
@pytest.mark.parametrize("name", MEMBERS)
def test_padding_and_causality(name, form):
    arrays = inputs(np.float32)
    real = np.ones((B, T), bool)
    real[0, [3, 4, 20]] = False
    real[1, :2] = False
    mask = jnp.asarray(real)[:, None, None, :]
    cut = 25

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=tuple(range(6)), has_aux=True)
    def early(*arrays):
        out = MEMBERS[name][0](*arrays, mask=mask, **FORMS[form])
        kept = jnp.where(jnp.asarray(real)[:, :cut, None, None], out[:, :cut], 0.0)
        return jnp.sum(kept**2), kept

    holes = ~real[:, :, None, None] | (np.arange(T) >= cut)[None, :, None, None]
    broken = [jnp.where(holes if x.ndim == 4 else holes[..., 0], jnp.nan, x) for x in arrays]
    (_, clean), gradients = early(*arrays)
    (_, dirty), dirty_gradients = early(*broken)
    np.testing.assert_array_equal(clean, dirty)
    for one, other in zip(gradients, dirty_gradients):
        np.testing.assert_array_equal(one, other)
        assert np.all(np.asarray(one)[np.broadcast_to(holes.reshape(B, T), (B, T))] == 0)
    wanted = oracle(arrays, real, **MEMBERS[name][1])
    wanted = np.where(real[:, :, None, None], wanted, 0)[:, :cut]
    np.testing.assert_allclose(clean, wanted, atol=2e-5 * np.abs(wanted).max())
    out = run(name, *broken, mask=mask, **FORMS[form])
    assert np.all(np.isnan(out[:, cut:]))  # who does see it must not be told a number


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by_channel", [False, True])
def test_hard_forgetting_and_strong_decay(form, by_channel):
    """A decay of exactly 0, and of e^-90 a step: no overflow, no NaN, also in gradients."""
    q, k, v, _, gate, gates = inputs(np.float32)
    decay = (gates if by_channel else gate) * 90
    decay = decay.at[:, 13].set(-jnp.inf)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def function(q, k, v):
        out = linear.fast_weights(q, k, v, log_decay=decay, **FORMS[form])
        return jnp.sum(out**2), out

    (_, out), gradients = function(q, k, v)
    late = [x[:, 13:] for x in (q, k, v)]
    fresh = jax.jit(linear.fast_weights)(*late, log_decay=decay[:, 13:])
    np.testing.assert_allclose(out[:, 13:], fresh, atol=1e-5)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_delta_rule_overwrites():
    """With beta = 1 and unit keys, reading a key returns the last value written under it."""
    key = linear.l2_normalise(jax.random.normal(jax.random.key(0), (1, 1, 1, H)))
    other = linear.l2_normalise(jax.random.normal(jax.random.key(1), (1, 1, 1, H)))
    keys = jnp.concatenate([key, other, key], axis=1)
    values = jax.random.normal(jax.random.key(2), (1, 3, 1, HV))
    out = jax.jit(linear.delta_net)(keys, keys, values, jnp.ones((1, 3, 1)))
    np.testing.assert_allclose(out, values, atol=1e-5)
    summed = jax.jit(linear.fast_weights)(keys, keys, values)
    assert np.abs(summed[:, 2] - values[:, 2]).max() > 0.1


def test_orthonormal_keys_are_retrieved_up_to_capacity():
    keys = jnp.eye(H)[None, :, None]
    values = jax.random.normal(jax.random.key(0), (1, H, 1, HV))
    remember = jax.jit(functools.partial(linear.fast_weights, return_state=True))
    _, memory = remember(keys, keys, values)
    read = jnp.einsum("bsnh,bnhv->bsnv", keys, memory)
    np.testing.assert_allclose(read, values, atol=1e-6)


def test_reductions():
    q, k, v, beta, gate, gates = inputs(np.float32)
    delta_net = jax.jit(linear.delta_net)
    fast_weights = jax.jit(linear.fast_weights)
    whole = delta_net(q, k, v, beta)
    np.testing.assert_allclose(delta_net(q, k, v, beta, log_decay=0 * gate), whole, atol=1e-5)
    same = jnp.broadcast_to(gate[..., None], gates.shape)
    np.testing.assert_allclose(
        fast_weights(q, k, v, log_decay=same),
        fast_weights(q, k, v, log_decay=gate),
        atol=1e-4,
    )
    nothing = delta_net(q, k, v, 0 * beta)
    assert np.all(nothing == 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("normalise", [False, True])
def test_all_keys_at_once(normalise):
    q, k, v, *_ = inputs()
    q = q[:, :11]  # T != S
    real = np.random.default_rng(5).random((B, T)) < 0.7
    mask = jnp.asarray(real)[:, None, None, :]
    dirty = (jnp.where(jnp.asarray(real)[:, :, None, None], x, jnp.nan) for x in (k, v))
    everywhere = functools.partial(linear.linear_attention, causal=False)
    settings = {"normalise": normalise, "return_weights": True}
    out, weights = jax.jit(functools.partial(everywhere, **settings))(q, *dirty, mask=mask)
    scores = np.einsum("btnh,bsnh->bnts", elu1(np.asarray(q)), elu1(np.asarray(k)))
    scores = scores * real[:, None, None, :]
    if normalise:
        scores = scores / scores.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, scores, atol=1e-10)
    np.testing.assert_allclose(out, np.einsum("bnts,bsnv->btnv", scores, v), atol=1e-10)
    none = jax.jit(everywhere)(q, k, v, mask=mask & False)
    assert np.all(none == 0)


@functools.cache
def projections(draws=20_000):
    """Independent draws of two blocks of orthogonal rows, the second one cut short."""
    draw = functools.partial(linear.orthogonal_projection, num_features=H + 2, H=H)
    keys = jax.random.split(jax.random.key(0), draws)
    return np.asarray(jax.jit(jax.vmap(draw))(keys), np.float64)


def standard_errors(samples, wanted):
    """How far the mean over the first axis is from what it should be, in its standard errors."""
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return np.abs(samples.mean(axis=0) - wanted) / error


def test_orthogonal_projections_are_gaussian_row_by_row():
    """Each row alone is N(0, I): lengths are chi-distributed, not sqrt(H), or features are biased.

    Every statistic is a mean over 20,000 draws and may be 4.5 standard errors off: chance passes
    that once in some hundred thousand.
    """
    rows = projections()
    products = np.einsum("dih,djh->dij", rows, rows)
    lengths = np.diagonal(products, axis1=1, axis2=2)
    outside = ~np.eye(H + 2, dtype=bool)
    outside[:H, H:] = outside[H:, :H] = False
    np.testing.assert_allclose(products[:, outside], 0, atol=2e-5)  # within a block: orthogonal
    assert np.abs(products[:, 0, H]).max() > 1  # between blocks: independent
    assert standard_errors(lengths, H).max() < 4.5
    assert standard_errors((lengths - H) ** 2, 2 * H).max() < 4.5
    assert standard_errors(rows, 0).max() < 4.5  # no direction is favoured
    assert standard_errors(rows**2, 1).max() < 4.5
    assert standard_errors(rows**4, 3).max() < 4.5


def test_random_features_estimate_the_softmax_kernel_without_bias():
    """The mean of phi(q) . phi(k) over 20,000 projections is e^{q . k}, within 4 standard errors.

    |q + k|^2 is up to 3.2: rows of the fixed length sqrt(H) would be up to 23 % too low, 70
    standard errors. One projection serves all pairs, so the errors of one key go together.
    """
    draw = np.random.default_rng(1)
    q, k = (0.45 * draw.normal(size=(2, 4, H))).astype(np.float32)

    @jax.jit
    @jax.vmap
    def estimate(projection):
        features = linear.random_features(projection)
        return jnp.einsum("qf,kf->qk", features(jnp.asarray(q)), features(jnp.asarray(k)))

    found = np.asarray(estimate(jnp.asarray(projections(), jnp.float32)), np.float64)
    wanted = np.exp(q.astype(np.float64) @ k.T)
    assert standard_errors(found, wanted).max() < 4
    assert found.min() > 0


def test_sum_normalisation_of_features_that_vanish():
    x = jnp.zeros((1, 4))
    assert np.all(linear.sum_normalise(linear.dpfp(x)) == 0)
    gradient = jax.grad(lambda x: jnp.sum(linear.l2_normalise(x)))(x)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", MEMBERS)
def test_chunked_memory_is_linear_in_the_length(name):
    """By what XLA reserves for output and gradients: twice the length, twice the memory."""

    def temporary(length):
        head = (1, length, 2)
        shapes = [(*head, 16)] * 3 + [head] * 2 + [(*head, 16)]
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

        def loss(*arrays):
            return jnp.sum(MEMBERS[name][0](*arrays, chunk_size=16) ** 2)

        compiled = jax.jit(jax.grad(loss, argnums=tuple(range(6)))).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporary(512), temporary(1024)
    assert 200_000 < short < long < 2.2 * short  # T x T scores alone would be four times as many


@pytest.mark.parametrize("name", MEMBERS)
def test_the_state_does_not_grow_with_the_length(name):
    for length in (1, 3, 37):
        arrays = [x[:, :length] for x in inputs(np.float32)]
        function = functools.partial(MEMBERS[name][0], return_state=True)
        _, state = jax.eval_shape(function, *arrays)
        width = HV + (name == "linear_attention")  # its denominator is one more column
        assert state.shape == (B, N, H, width)


@pytest.fixture
def unchecked():
    """Errors as users see them: without the type checker that runs in the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


ERRORS = {
    "k has shape (2, 37, 1, 5); wanted (2, 37, 3, 5)": lambda q, k, v: ((q, k[:, :, :1], v), {}),
    "v has shape (2, 36, 3, 7); wanted B T N Hv": lambda q, k, v: ((q, k, v[:, 1:]), {}),
    "beta has shape (2, 37); wanted B T N": lambda q, k, v: ((q, k, v), {"beta": q[:, :, 0, 0]}),
    "log_decay has shape (2, 37, 3, 7)": lambda q, k, v: ((q, k, v), {"log_decay": v}),
    "form='serial'; wanted one of": lambda q, k, v: ((q, k, v), {"form": "serial"}),
    "chunk_size=0; wanted at least 1": lambda q, k, v: ((q, k, v), {"chunk_size": 0}),
    "initial_state has shape (2, 3, 5, 5)": lambda q, k, v: (
        (q, k, v),
        {"initial_state": jnp.zeros((2, 3, 5, 5))},
    ),
    "cannot be hidden from one query only": lambda q, k, v: (
        (q, k, v),
        {"mask": jnp.ones((2, 1, 37, 37), bool)},
    ),
    "log_decay has shape (2, 37, 3, 4)": lambda q, k, v: (
        (q, k, v),
        {"log_decay": jnp.zeros((2, 37, 3, 4)), "beta": jnp.zeros((2, 37, 3))},
    ),
    "mask has dtype float32": lambda q, k, v: ((q, k, v), {"mask": jnp.ones((2, 1, 1, 37))}),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_the_argument(message):
    arguments, settings = ERRORS[message](*inputs(np.float32)[:3])
    with pytest.raises(ValueError) as error:
        linear.fast_weights(*arguments, **settings)
    assert message in str(error.value)


def test_the_form_is_chosen():
    """Output alone scans positions on a CPU; gradients, other platforms and large states do not."""
    given = inputs(np.float32)[:4]

    def scans(platform="cpu", *, gradients=False, batch=B, **form):
        function = functools.partial(linear.delta_rule, chunk_size=8, **form)
        call = jax.grad(lambda *given: function(*given).sum()) if gradients else function
        arrays = [jnp.repeat(x, batch // B, axis=0) for x in given]
        lowered = jax.jit(call).trace(*arrays).lower(lowering_platforms=(platform,))
        return f"dense<{T}> : tensor<i32>" in lowered.as_text()

    assert scans(form="recurrent")
    assert not scans(form="chunked")
    assert scans()
    assert not scans("tpu")
    assert not scans("cuda")
    assert not scans(gradients=True)
    assert not scans(batch=B << 12)


def test_what_does_not_exist_says_so():
    q, k, v, *_ = inputs(np.float32)
    with pytest.raises(ValueError, match="causal=False takes no form"):
        linear.linear_attention(q, k, v, causal=False, form="chunked")


def long_vectors(seed=0):
    """Features from e^-900 to e^-100: all are 0 in float32."""
    draw = np.random.default_rng(seed).normal
    q, k, v = draw(size=(2, 21, 2, 8)), draw(size=(2, 21, 2, 8)), draw(size=(2, 21, 2, 3))
    return q, 12 * k / np.linalg.norm(k, axis=-1, keepdims=True) + draw(size=k.shape), v


def favor(q, k, v, projection, causal, real):
    """Attention over random features in float64, by logarithms."""

    def logarithms(x):
        return x @ projection.T - (x**2).sum(-1, keepdims=True) / 2

    pairs = logarithms(q).transpose(0, 2, 1, 3)[:, :, :, None], logarithms(k).transpose(0, 2, 1, 3)
    scores = pairs[0] + pairs[1][:, :, None]
    highest = scores.max((-1, -2), keepdims=True)
    weights = np.exp(scores - highest).sum(-1) * real
    weights = weights * np.tri(q.shape[1]) if causal else weights
    return np.einsum("bnts,bsnv->btnv", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("form", ["all keys", "recurrent", "parallel", "chunked"])
def test_random_features_that_underflow_change_no_result(form, scale):
    inputs = [np.asarray(x, np.float32) for x in long_vectors()]
    inputs[0] *= np.float32(8 * scale)
    inputs[1] *= np.float32(scale)
    projection = linear.orthogonal_projection(jax.random.key(0), 16, 8)
    real = np.arange(21) != 5
    settings = {"causal": False} if form == "all keys" else {"form": form, "chunk_size": 8}
    attend = functools.partial(
        linear.linear_attention,
        feature_map=linear.random_features(projection),
        mask=jnp.asarray(real)[None, None, None],
        **settings,
    )

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def call(*arrays):
        out = attend(*arrays)
        return jnp.sum(out**2), out

    exact = favor(
        *(x.astype(np.float64) for x in inputs), np.asarray(projection, np.float64),
        form != "all keys", real,
    )  # fmt: skip
    (_, got), gradients = call(*inputs)
    # Exponents of up to 2000 are rounded by as many units of 2^-24, and so are weights, relatively.
    np.testing.assert_allclose(got, exact, rtol=0, atol=2e-3 * np.abs(exact).max())
    assert all(np.all(np.isfinite(x)) for x in gradients)
    assert np.any(gradients[2])


def test_a_state_of_random_features_goes_on_or_is_nan():
    projection = linear.orthogonal_projection(jax.random.key(0), 16, 8)
    attend = functools.partial(
        linear.linear_attention, feature_map=linear.random_features(projection), return_state=True
    )
    attend = jax.jit(attend)
    q, k, v = (np.asarray(x, np.float32) for x in long_vectors())
    short = k / 4
    whole, state = attend(q, short, v)
    first, middle = attend(q[:, :9], short[:, :9], v[:, :9])
    second, last = attend(q[:, 9:], short[:, 9:], v[:, 9:], initial_state=middle)
    both = jnp.concatenate([first, second], axis=1)
    np.testing.assert_allclose(both, whole, rtol=0, atol=1e-4 * np.abs(whole).max())
    np.testing.assert_allclose(last, state, rtol=0, atol=1e-4 * np.abs(state).max())
    out, state = attend(q, 2 * k, v)
    assert np.all(np.isfinite(out))
    assert np.isnan(state).all()
