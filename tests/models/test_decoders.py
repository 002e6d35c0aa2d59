"""GPT-2 and Llama: causal, trainable throughout, the same packed or apart, cached or not."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config import attention as kinds
from attnzoo.config import gpt2
from attnzoo.config.llama import LlamaConfig
from attnzoo.config.rotary import DynamicScalingConfig, YaRNScalingConfig
from attnzoo.explain.attn_lrp import attn_lrp
from attnzoo.models.gpt2 import GPT2
from attnzoo.models.llama import Llama
from attnzoo.ops.positions import positions_in_text

V, D = 13, 12
HEADS = kinds.MultiHeadConfig(num_heads=3)
MODELS = {"gpt2": (GPT2, gpt2.GPT2Config), "llama": (Llama, LlamaConfig)}


def make(name: str, *, seed: int = 0, **settings: Any) -> Any:
    """A small model whose biases and norms are not at their neutral starting values."""
    model, config = MODELS[name]
    sizes = {"attention": HEADS, "dim": D, "hidden": 7, "layers": 2, "max_length": 17}
    return drawn(lambda: model(config(**sizes | settings), V, rngs=nnx.Rngs(seed)), seed, 0.4)


def run(model: Any, *arguments: Any, **keywords: Any) -> Any:
    """What the model says, compiled as one: operation by operation takes several times as long."""
    fixed = {name: keywords.pop(name) for name in ("capture",) if name in keywords}
    return _run(*nnx.split(model), tuple(fixed.items()), arguments, keywords)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _run(graph: Any, state: Any, fixed: Any, arguments: Any, keywords: Any) -> Any:
    return nnx.merge(graph, state)(*arguments, **dict(fixed), **keywords)


def tokens(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


@pytest.mark.parametrize("name", MODELS)
def test_no_position_hears_of_a_later_one(name: str) -> None:
    model, ids, t = make(name), tokens(2, 7), 3
    graph, state = nnx.split(model)

    def logits(added: jax.Array, state: Any) -> jax.Array:
        held = nnx.merge(graph, state)
        embed = held._embed
        held._embed = lambda *arguments: embed(*arguments) + added
        return jnp.sum(jnp.sin(held(ids)[:, t]))

    slope = np.abs(np.asarray(jax.jit(jax.grad(logits))(jnp.zeros((2, 7, D)), state))).max(-1)
    assert (slope[:, t + 1 :] == 0).all()
    assert (slope[:, : t + 1] > 0).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name: str, tied: bool) -> None:
    more = {"qkv_bias": True, "out_bias": True, "hidden_bias": True} if name == "llama" else {}
    heads = dataclasses.replace(HEADS, qk_norm=name == "llama", sinks=True)
    model, ids = make(name, tied=tied, attention=heads, **more), tokens(2, 17)
    graph, state = nnx.split(model)
    loss = lambda state: jnp.sum(jnp.sin(nnx.merge(graph, state)(ids)))  # noqa: E731
    for path, slope in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(state)):
        assert float(jnp.max(jnp.abs(slope))) > 1e-6, jax.tree_util.keystr(path)


@pytest.mark.parametrize("change", [{"scan": True}, {"remat": "full"}, {"remat": "dots"}])
@pytest.mark.parametrize("name", MODELS)
def test_scan_and_remat_change_nothing(name: str, change: dict[str, Any]) -> None:
    plain, ids = make(name), tokens(2, 7)
    config = dataclasses.replace(plain.config, **change)
    other = nnx.eval_shape(lambda: MODELS[name][0](config, V, rngs=nnx.Rngs(0)))
    state = nnx.to_pure_dict(nnx.state(plain, nnx.Param))
    if "scan" in change:
        layers = state["decoder"]["blocks"]
        state["decoder"]["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *layers.values())
    other = nnx.merge(nnx.split(other)[0], state)

    def slopes(model: Any) -> Any:
        graph, state = nnx.split(model)
        loss = lambda state: jnp.sum(jnp.sin(nnx.merge(graph, state)(ids)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(state)

    (one, first), (two, second) = slopes(plain), slopes(other)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    # Slopes reach 10: their sums in another order differ in the sixth digit.
    np.testing.assert_allclose(
        first["embedding"]["table"][...], second["embedding"]["table"][...], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        other.decoder.unrolled().blocks[1].feed_forward.up.kernel[...],
        plain.decoder.blocks[1].feed_forward.up.kernel[...],
    )


def test_the_logits_of_one_place_a_row() -> None:
    model, ids = make("gpt2"), tokens(2, 5)
    graph, params = nnx.split(model)

    @jax.jit
    def both(params: Any) -> Any:
        model = nnx.merge(graph, params)
        everywhere, _ = model.decode(ids, model.start(2))
        return everywhere, *model.decode(ids, model.start(2), at=jnp.int32([1, 4]))

    everywhere, chosen, state = both(params)
    assert chosen.shape == (2, 1, V)
    assert (state.length == 5).all()
    np.testing.assert_allclose(chosen[0, 0], everywhere[0, 1], rtol=1e-6)
    np.testing.assert_allclose(chosen[1, 0], everywhere[1, 4], rtol=1e-6)


def test_positions_begin_anew_in_every_document() -> None:
    found = positions_in_text(None, jnp.int32([[5, 5, 5, 7, 7, 5], [0, 1, 1, 1, 1, 1]]))
    assert found.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("scaling", [None, YaRNScalingConfig(factor=3.0, original_length=5)])
@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_are_separate_documents(name: str, scaling: Any) -> None:
    model = make(name, **({"rotary_scaling": scaling} if name == "llama" else {}))
    one, two = tokens(1, 5), tokens(1, 3, seed=1)
    documents = jnp.int32([[1] * 5 + [2] * 3])
    packed = run(model, jnp.concatenate([one, two], axis=1), documents=documents)
    np.testing.assert_allclose(packed[:, :5], run(model, one), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(packed[:, 5:], run(model, two), rtol=1e-5, atol=1e-5)


def test_rotary_positions_turn_queries_and_keys() -> None:
    model, ids = make("llama"), tokens(1, 5)
    places, plain = jnp.arange(5, dtype=jnp.int32)[None], run(model, ids)
    np.testing.assert_allclose(run(model, ids, positions=places + 9), plain, rtol=1e-4, atol=1e-5)
    stretched = run(model, ids, positions=2 * places)
    assert float(jnp.max(jnp.abs(stretched - plain))) > 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_not_read_and_maps_are_where_the_layers_are(name: str) -> None:
    model, ids = make(name), tokens(2, 5)
    valid = jnp.arange(5)[None] >= jnp.int32([[0], [2]])
    logits, maps = run(model, ids, valid=valid, capture=True)
    assert sorted(maps) == ["decoder/0/self", "decoder/1/self"]
    assert maps["decoder/1/self"].shape == (2, 3, 5, 5)
    assert (maps["decoder/1/self"][1, :, :, :2] == 0).all()
    other, _ = run(model, ids.at[1, :2].set(3), valid=valid, capture=True)
    np.testing.assert_allclose(other[1, 2:], logits[1, 2:], rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_is_on_with_rngs_alone(name: str) -> None:
    model, ids = make(name, dropout=0.3, attention_dropout=0.2), tokens(1, 5)
    np.testing.assert_array_equal(run(model, ids), run(model, ids))
    graph, state = nnx.split(model)
    drop = jax.jit(lambda state, key: nnx.merge(graph, state)(ids, rngs=nnx.Rngs(dropout=key)))
    first, second = (drop(state, jax.random.key(seed)) for seed in (0, 1))
    assert float(jnp.max(jnp.abs(first - second))) > 1e-2


def test_a_row_longer_than_the_table_of_positions_is_refused() -> None:
    model = make("gpt2")
    with pytest.raises(ValueError, match="18 positions, but max_length=17"):
        model(tokens(1, 18))
    with pytest.raises(ValueError, match="19 positions, but max_length=17"):
        model.start(1, 19)


def test_dynamic_scaling_cannot_be_cached() -> None:
    model = make("llama", rotary_scaling=DynamicScalingConfig(original_length=3))
    with pytest.raises(NotImplementedError, match="DynamicNTKScaling"):
        model.decode(tokens(1, 3), model.start(1, 5))


@pytest.mark.parametrize(
    ("config", "vocabulary", "millions"),
    [
        (gpt2.GPT2Config.small(), 50257, 124.4),
        (gpt2.GPT2Config.xl(), 50257, 1557.6),
        (gpt2.GPT2Config.char_gpu(), 65, 10.8),
        (LlamaConfig.llama_7b(), 32000, 6738.4),
        (LlamaConfig.tinyllama(), 32000, 1100.0),
        (LlamaConfig.mistral_7b(), 32000, 7241.7),
        (LlamaConfig.mixtral_8x7b(), 32000, 46702.8),
        (LlamaConfig.llama3_8b(), 128256, 8030.3),
        (LlamaConfig.llama32_1b(), 128256, 1235.8),
        (LlamaConfig.smollm2_135m(), 49152, 134.5),
        (LlamaConfig.qwen2_05b(), 151936, 494.0),
        (LlamaConfig.qwen3_06b(), 151936, 596.0),
    ],
)
def test_named_sizes_have_the_published_number_of_weights(
    config: Any, vocabulary: int, millions: float
) -> None:
    def count(layers: int) -> int:
        sizes = dataclasses.replace(config, layers=layers)
        make = lambda: MODELS[config.kind][0](sizes, vocabulary, rngs=nnx.Rngs(0))  # noqa: E731
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(nnx.eval_shape(make))))

    one = count(1)
    assert round((one + (config.layers - 1) * (count(2) - one)) / 1e6, 1) == millions


def test_shifted_norms_are_the_same_model_with_other_numbers() -> None:
    """Norms of 1 + g: logits and relevances are those of norms with the sums (Gemma)."""
    settings = {
        "attention": dataclasses.replace(HEADS, qk_norm=True, window=3),
        "global_layers": (1,),
        "branch_norms": True,
    }
    shifted, plain = (make("llama", shifted_norms=one, **settings) for one in (True, False))
    values = nnx.to_pure_dict(nnx.state(shifted))
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 1 if path[-1].key == "scale" else leaf, values
    )
    nnx.update(plain, moved)
    assert sum("scale" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(moved)) == 13
    ids = tokens(2, 7)

    @functools.partial(jax.jit, static_argnums=0)
    def explained(graph: Any, state: Any) -> Any:
        model = nnx.merge(graph, state)
        return model(ids), attn_lrp(model, lambda logits: logits[:, -1, 1], ids)

    found, wanted = (explained(*nnx.split(model)) for model in (shifted, plain))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())


def test_soft_caps_bound_logits_and_have_no_rule_of_relevance() -> None:
    capped, free = make("llama", logit_softcap=0.25), make("llama")
    ids = tokens(2, 7)
    found, wanted = run(capped, ids), run(free, ids)
    np.testing.assert_allclose(found, 0.25 * np.tanh(wanted / 0.25), rtol=1e-5, atol=1e-7)
    heads = dataclasses.replace(HEADS, softcap=0.5)
    for model in (capped, make("llama", attention=heads)):
        with pytest.raises(NotImplementedError, match="softcap: there is no rule"):
            attn_lrp(model, lambda logits: logits[:, -1, 1], ids)
