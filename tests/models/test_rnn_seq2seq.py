"""The recurrent translators against their papers' equations, written as loops in float64."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config.attention import (
    AdditiveConfig,
    ConcatConfig,
    DotConfig,
    GeneralConfig,
    LocalMConfig,
    LocalPConfig,
    LocationConfig,
    NoAttentionConfig,
    ScaledDotConfig,
)
from attnzoo.config.model import BahdanauConfig, LuongConfig
from attnzoo.config.training import TrainingConfig
from attnzoo.models import TRANSLATORS
from attnzoo.special_tokens import BOS, EOS, PAD
from attnzoo.tasks.translation import translation_loss
from attnzoo.training.optimizer import build_optimizer

VS, VT, N, M, MAXOUT = 11, 13, 7, 5, 3
SOURCE = np.array([[4, 9, 5, 10, 6, EOS], [7, 8, EOS, PAD, PAD, PAD], [5, EOS, *[PAD] * 4]])
TARGET = np.array([[BOS, 4, 12, 5, 6], [BOS, 7, 8, EOS, PAD], [BOS, 9, EOS, PAD, PAD]])
ATTENTIONS = {
    "additive": AdditiveConfig(width=4),
    "dot": DotConfig(),
    "scaled_dot": ScaledDotConfig(),
    "general": GeneralConfig(),
    "concat": ConcatConfig(width=4),
    "location": LocationConfig(max_length=9),
    "local_m": LocalMConfig(window=1),
    "local_p": LocalPConfig(window=2),
    "none": NoAttentionConfig(),
}
# The Bahdanau decoder's queries and keys have different widths: no dot product.
PAIRS = [
    (model, kind)
    for model in ("bahdanau", "luong")
    for kind in ATTENTIONS
    if model == "luong" or kind not in ("dot", "scaled_dot")
]
EVERY = pytest.mark.parametrize(("model", "kind"), PAIRS)
# Each attention is read step by step, alone and in bfloat16 in test_products, in one layer.
ONE_EACH = pytest.mark.parametrize(
    ("model", "kind"), [("bahdanau", "additive"), ("luong", "general")]
)


@functools.cache
def build(model: str, kind: str, **changes: Any) -> Any:
    """A model with weights of size 0.5, so that nothing is hidden by a small start."""
    attention = ATTENTIONS[kind]
    config: Any = {
        "bahdanau": BahdanauConfig(attention=attention, hidden=N, embedding=M, maxout=MAXOUT),
        "luong": LuongConfig(attention=attention, hidden=N, embedding=M, layers=2, dropout=0.0),
    }[model]
    config = dataclasses.replace(config, **changes)
    return drawn(lambda: TRANSLATORS[model](config, VS, VT, rngs=nnx.Rngs(0)), 7, 0.5)


@functools.partial(jax.jit, static_argnums=0)
def _forced(graph: Any, state: Any, source: jax.Array, target: jax.Array) -> Any:
    return nnx.merge(graph, state)(source, target, return_weights=True)


def forced(module: Any, source: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Logits and weights; compiled once for equal models and shapes."""
    found = _forced(*nnx.split(module), np.int32(source), np.int32(target))
    return np.asarray(found[0]), np.asarray(found[1])


@ONE_EACH
def test_step_by_step_is_teacher_forcing(model: str, kind: str) -> None:
    module = build(model, kind)
    graph, state = nnx.split(module)
    logits, weights = forced(module, SOURCE, TARGET)
    assert logits.shape == (3, 5, VT)
    assert weights.shape == (3, 1, 5, 6)
    assert weights.dtype == jnp.float32
    memory, carry = jax.jit(lambda state, s: nnx.merge(graph, state).start(s))(
        state, jnp.int32(SOURCE)
    )
    step = jax.jit(lambda state, *rest: nnx.merge(graph, state).step(*rest))
    for t in range(TARGET.shape[1]):
        out, carry, row = step(state, jnp.int32(TARGET[:, t]), carry, memory)
        np.testing.assert_allclose(out, logits[:, t], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(row, weights[:, :, t], rtol=1e-4, atol=1e-6)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves((memory, carry)))


@EVERY
def test_padding_changes_nothing(model: str, kind: str) -> None:
    """Three columns more, and a row of nothing more."""
    module = build(model, kind)
    logits, weights = forced(module, SOURCE, TARGET)
    wide = np.pad(SOURCE, ((0, 1), (0, 3)))
    more, more_weights = forced(module, wide, np.pad(TARGET, ((0, 1), (0, 0))))
    np.testing.assert_allclose(more[:3], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(more_weights[:3, ..., :6], weights, rtol=1e-4, atol=1e-6)
    assert np.all(np.isfinite(more))
    assert np.all(more_weights[:3, ..., 6:] == 0)
    assert np.all(more_weights[3] == 0)


@ONE_EACH
def test_a_sentence_alone_is_the_one_in_a_batch(model: str, kind: str) -> None:
    module = build(model, kind)
    logits, weights = forced(module, SOURCE, TARGET)
    alone, alone_weights = forced(module, SOURCE[1:2, :3], TARGET[1:2])
    np.testing.assert_allclose(alone, logits[1:2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(alone_weights, weights[1:2, ..., :3], rtol=1e-4, atol=1e-6)


@EVERY
def test_every_parameter_learns(model: str, kind: str) -> None:
    graph, params, rest = nnx.split(build(model, kind), nnx.Param, ...)
    batch = {"source": jnp.int32(SOURCE), "target": jnp.int32(TARGET)}
    gradient = jax.jit(
        jax.grad(lambda params: translation_loss(nnx.merge(graph, params, rest), batch)[0])
    )(params)
    flat = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(gradient))
    silent = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in flat
        if not np.any(np.asarray(leaf))
    }
    assert len(flat) > 10
    assert silent == set()
    assert all(np.all(np.isfinite(leaf)) for _, leaf in flat)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_bahdanau_is_appendix_a() -> None:
    """One sentence of 3 tokens, gate by gate in numpy; the readout looks at the previous state."""
    module = build("bahdanau", "additive")
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(nnx.state(module)))

    def gru(cell: dict, x: np.ndarray, h: np.ndarray, extra: Any = (0, 0, 0)) -> np.ndarray:
        w_z, w_r, w = np.split(cell["input_kernel"], 3, axis=1)
        b_z, b_r, b = np.split(cell["bias"], 3)
        u_z, u_r = np.split(cell["gate_kernel"], 2, axis=1)
        z = sigmoid(x @ w_z + h @ u_z + b_z + extra[0])
        r = sigmoid(x @ w_r + h @ u_r + b_r + extra[1])
        candidate = np.tanh(x @ w + (r * h) @ cell["candidate_kernel"] + b + extra[2])
        return (1 - z) * h + z * candidate

    source, target = [7, 8, EOS], [BOS, 7, 8, EOS]
    x = p["source_embedding"]["embedding"][source]
    forward, backward = [np.zeros(N)], [np.zeros(N)]
    for vector in x:
        forward.append(gru(p["forward_encoder"], vector, forward[-1]))
    for vector in x[::-1]:
        backward.append(gru(p["backward_encoder"], vector, backward[-1]))
    h = [np.concatenate([forward[j + 1], backward[3 - j]]) for j in range(3)]
    state = np.tanh(backward[3] @ p["initial"]["kernel"] + p["initial"]["bias"])
    a = p["attention"]
    logits, rows = [], []
    for token in target:
        y = p["target_embedding"]["embedding"][token]
        scores = [
            a["score_kernel"] @ np.tanh(state @ a["query_kernel"] + h_j @ a["key_kernel"])
            for h_j in h
        ]
        alpha = np.exp(scores) / np.sum(np.exp(scores))
        context = sum(alpha[j] * h[j] for j in range(3))
        pairs = (
            state @ p["readout_state"]["kernel"]
            + p["readout_state"]["bias"]
            + y @ p["readout_embedding"]["kernel"]
            + context @ p["readout_context"]["kernel"]
        )
        maxout = np.array([max(pairs[2 * k], pairs[2 * k + 1]) for k in range(MAXOUT)])
        logits.append(maxout @ p["output"]["kernel"] + p["output"]["bias"])
        rows.append(alpha)
        terms = np.split(context @ p["context_kernel"]["kernel"], 3)
        state = gru(p["decoder"], y, state, terms)
    got, weights = forced(module, SOURCE[1:2], np.array([target]))
    np.testing.assert_allclose(got[0], logits, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(weights[0, 0, :, :3], rows, rtol=2e-4, atol=1e-6)


def test_luong_is_sections_2_and_3() -> None:
    """Two layers of LSTM, source reversed, general scores, input feeding, in numpy."""
    module = build("luong", "general")
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(nnx.state(module)))

    def lstm(cell: dict, x: np.ndarray, state: tuple, extra: Any = 0) -> tuple:
        c, h = state
        i, f, g, o = np.split(
            x @ cell["input_kernel"] + h @ cell["recurrent_kernel"] + cell["bias"] + extra, 4
        )
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return c, sigmoid(o) * np.tanh(c)

    source, target = [4, 9, 5, 10, 6, EOS], TARGET[0]
    states = [(np.zeros(N), np.zeros(N))] * 2
    top = {}
    for j in reversed(range(6)):
        states[0] = lstm(p["encoder"][0], p["source_embedding"]["embedding"][source[j]], states[0])
        states[1] = lstm(p["encoder"][1], states[0][1], states[1])
        top[j] = states[1][1]
    memory = np.stack([top[j] for j in range(6)])
    attentional, logits, rows = np.zeros(N), [], []
    for token in target:
        y = p["target_embedding"]["embedding"][token]
        feed = attentional @ p["feed"]["kernel"]
        states[0] = lstm(p["decoder"][0], y, states[0], feed)
        states[1] = lstm(p["decoder"][1], states[0][1], states[1])
        h = states[1][1]
        scores = memory @ (h @ p["attention"]["kernel"])
        alpha = np.exp(scores) / np.exp(scores).sum()
        both = np.concatenate([alpha @ memory, h])
        attentional = np.tanh(both @ p["combine"]["kernel"])
        logits.append(attentional @ p["output"]["kernel"] + p["output"]["bias"])
        rows.append(alpha)
    got, weights = forced(module, SOURCE[:1], TARGET[:1])
    np.testing.assert_allclose(got[0], logits, rtol=5e-4, atol=5e-5)
    np.testing.assert_allclose(weights[0, 0], rows, rtol=5e-4, atol=1e-6)


def test_a_source_fed_backwards_has_its_weights_in_reading_order() -> None:
    """Reading the mirrored source forwards is the same network, with the columns mirrored."""
    backwards = build("luong", "general", reverse_source=True)
    forwards = build("luong", "general", reverse_source=False)
    mirrored = np.array(
        [row[row != PAD].tolist()[::-1] + row[row == PAD].tolist() for row in SOURCE]
    )
    logits, weights = forced(backwards, SOURCE, TARGET)
    other, other_weights = forced(forwards, mirrored, TARGET)
    np.testing.assert_allclose(logits, other, rtol=1e-5, atol=1e-6)
    for row, length in enumerate((SOURCE != PAD).sum(axis=1)):
        flipped = other_weights[row, 0, :, :length][:, ::-1]
        np.testing.assert_allclose(weights[row, 0, :, :length], flipped, rtol=1e-5, atol=1e-6)


def test_input_feeding_adds_one_matrix_and_matters_from_the_second_step() -> None:
    fed, plain = build("luong", "general"), build("luong", "general", input_feeding=False)
    names = [set(nnx.to_pure_dict(nnx.state(m))) for m in (fed, plain)]
    assert names[0] - names[1] == {"feed"}
    assert names[1] <= names[0]
    plain = nnx.clone(plain)
    for name in names[1] - {"dropout"}:
        setattr(plain, name, getattr(fed, name))
    a, b = forced(fed, SOURCE, TARGET)[0], forced(plain, SOURCE, TARGET)[0]
    np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=1e-5, atol=1e-6)
    assert np.all(np.abs((a - b)[:, 1:]).max(axis=-1) > 1e-3)


def test_without_attention_the_context_is_the_last_annotation() -> None:
    _, weights = forced(build("bahdanau", "none"), SOURCE, TARGET)
    last = (SOURCE != PAD).sum(axis=1) - 1
    np.testing.assert_array_equal(
        weights[:, 0], np.repeat(np.eye(6, dtype=np.float32)[last][:, None], 5, axis=1)
    )


@pytest.mark.parametrize("model", ["bahdanau", "luong"])
def test_dropout_needs_a_key_and_follows_it(model: str) -> None:
    module = build(model, "additive" if model == "bahdanau" else "general", dropout=0.5)
    run = functools.partial(module, jnp.int32(SOURCE), jnp.int32(TARGET))
    plain = forced(module, SOURCE, TARGET)[0]
    np.testing.assert_allclose(run(), plain, rtol=1e-4, atol=1e-5)
    one, same, other = (run(rngs=nnx.Rngs(dropout=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(np.asarray(one - other)).max() > 1e-3
    assert np.abs(np.asarray(one - plain)).max() > 1e-3


@pytest.mark.parametrize("config", [BahdanauConfig.small(), LuongConfig.small()])
def test_products_keep_their_size_at_any_width_with_fan_in(config: Any) -> None:
    """The papers' weights have one size at any width: a narrow layer shrinks its input."""
    for init in ("fan_in", "paper"):
        model: Any = TRANSLATORS[config.kind](
            dataclasses.replace(config, init=init), 500, 500, rngs=nnx.Rngs(0)
        )
        tables = model.source_embedding.embedding, model.target_embedding.embedding
        norms = [float(jnp.sum(table[...] ** 2, axis=1).mean()) for table in tables]
        found = jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))
        kernels = [x for path, x in found if "input_kernel" in jax.tree_util.keystr(path)]
        kernels.append(model.output.kernel[...])
        gains = [float(jnp.sum(kernel**2, axis=0).mean()) for kernel in kernels]
        assert all((abs(size - 1) < 0.1) == (init == "fan_in") for size in norms + gains)
        for layer in getattr(model, "encoder", ()):  # of Luong's LSTMs
            forget = np.split(layer.bias[...], 4)[1]
            assert abs(float(forget.mean()) - (init == "fan_in")) < 0.02


@pytest.mark.parametrize(("model", "steps"), [("bahdanau", 400), ("luong", 400)])
def test_reversing_is_learned_with_its_alignment(model: str, steps: int) -> None:
    """Six different symbols, to be written backwards; new ones at every step, so that nothing but
    looking at the source helps.
    """
    config: Any = {
        "bahdanau": BahdanauConfig(
            hidden=24, embedding=12, maxout=12, reads="words", initial_state="zero"
        ),
        "luong": LuongConfig(hidden=32, embedding=16, layers=1, dropout=0.0, reverse_source=False),
    }[model]
    module = TRANSLATORS[model](config, 12, 12, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    settings = TrainingConfig(steps=steps, learning_rate=1e-2)
    transform, _ = build_optimizer(settings, total_steps=steps, steps_per_epoch=1)

    def draw(key):
        order = jax.vmap(lambda key: jax.random.permutation(key, 8))(jax.random.split(key, 32))
        symbols = (order[:, :6] + 4).astype(jnp.int32)
        end, begin = (jnp.full((32, 1), token, jnp.int32) for token in (EOS, BOS))
        source = jnp.concatenate([symbols, end], axis=1)
        return {
            "source": source,
            "target": jnp.concatenate([begin, symbols[:, ::-1], end], axis=1),
        }

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            (loss, sums), gradient = jax.value_and_grad(
                lambda params: translation_loss(nnx.merge(graph, params, rest), draw(key)),
                has_aux=True,
            )(params)
            updates, state = transform.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), (loss, sums["correct"])

        keys = jax.random.split(jax.random.key(0), steps)
        carry, history = jax.lax.scan(step, (params, transform.init(params)), keys)
        return carry[0], history

    params, (losses, correct) = train(params)
    assert float(losses[0]) > 2.3  # about log 12
    assert float(losses[-1]) < 0.05
    assert float(correct[-1]) == 32 * 7
    unseen = draw(jax.random.key(1))
    _, weights = forced(nnx.merge(graph, params, rest), unseen["source"], unseen["target"][:, :-1])
    # The step that predicts symbol t looks at symbol 5 - t.
    looked = weights[:, 0, :6].argmax(axis=-1)
    assert np.mean(looked == 5 - np.arange(6)) > 0.8


@ONE_EACH
def test_bfloat16_runs_through(model: str, kind: str) -> None:
    graph, state = nnx.split(build(model, kind))
    half = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    logits, weights = forced(half, SOURCE, TARGET)
    assert logits.dtype == jnp.bfloat16
    assert weights.dtype == jnp.float32
    assert np.all(np.isfinite(logits.astype(jnp.float32)))


def test_a_source_beyond_the_location_model_is_an_error() -> None:
    module = build("luong", "location")
    with pytest.raises(ValueError, match=r"S=10.*max_length=9"):
        module.start(jnp.int32(np.pad(SOURCE, ((0, 0), (0, 4)))))
