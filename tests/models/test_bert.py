"""BERT: every head, packed documents, padding that nobody reads, any attention."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_parameters import drawn

from attnzoo.config.attention import (
    FastWeightConfig,
    MultiHeadConfig,
)
from attnzoo.config.bert import BertConfig
from attnzoo.explain.attention_modules import with_taps
from attnzoo.explain.attn_lrp import attn_lrp
from attnzoo.models.bert import Bert
from attnzoo.pretrained import convert

B, T, V, D, CLASSES = 2, 7, 13, 6, 5
TINY = BertConfig(attention=MultiHeadConfig(num_heads=3), dim=D, hidden=11, layers=2, max_length=9)


def make(**changes: Any) -> Bert:
    """A small model whose biases and norms are not at their neutral starting values."""
    config = dataclasses.replace(TINY, num_classes=CLASSES, **changes)
    return drawn(lambda: Bert(config, V, rngs=nnx.Rngs(0)), 1, 0.3)


def run(model: Bert, *arguments: Any, **keywords: Any) -> Any:
    """What the model says, compiled as one: operation by operation takes several times as long."""
    return _run(*nnx.split(model), arguments, keywords)


@functools.partial(jax.jit, static_argnums=0)
def _run(graph: Any, state: Any, arguments: Any, keywords: Any) -> Any:
    return nnx.merge(graph, state)(*arguments, **keywords)


def tokens(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("lm", (B, T, V)),
        ("sequence", (B, CLASSES)),
        ("token", (B, T, CLASSES)),
        ("none", (B, T, D)),
    ],
)
def test_every_parameter_gets_a_gradient(head: str, shape: tuple[int, ...]) -> None:
    model = make(head=head, pooler=False, dropout=0.0, attention_dropout=0.0)
    graph, state = nnx.split(model)
    segments = (jnp.arange(T) > 3)[None].repeat(B, 0).astype(jnp.int32)
    positions = jnp.array([[0, 1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7, 8]], jnp.int32)
    ids = jnp.arange(B * T, dtype=jnp.int32).reshape(B, T) % V

    def loss(state: Any) -> Any:
        said = nnx.merge(graph, state)(ids, segments=segments, positions=positions)
        return jnp.sum(jnp.sin(said)), said

    slopes, said = jax.jit(jax.grad(loss, has_aux=True))(state)
    assert said.shape == shape
    for path, slope in convert.parameters(nnx.merge(graph, slopes)).items():
        if path.endswith("/key/bias"):  # adds the same to all scores of a query
            np.testing.assert_allclose(slope, 0, atol=1e-5)
        else:
            assert float(jnp.abs(slope).max()) > 1e-5, path


@pytest.mark.parametrize("change", [{"scan": True}, {"remat": "full"}, {"remat": "dots"}], ids=str)
def test_scan_and_remat_change_nothing(change: dict) -> None:
    plain, ids = make(), tokens(B, T)
    config = dataclasses.replace(plain.config, **change)
    other = nnx.eval_shape(lambda: Bert(config, V, rngs=nnx.Rngs(0)))
    values = nnx.to_pure_dict(nnx.split(plain)[1])
    if "scan" in change:
        layers = values["encoder"]["blocks"]
        values["encoder"]["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), layers[0], layers[1])
    other = nnx.merge(nnx.split(other)[0], values)

    def slope(model: Bert) -> tuple[jax.Array, jax.Array]:
        graph, state = nnx.split(model)

        @jax.jit
        def both(state: Any) -> Any:
            loss = lambda state: jnp.sum(jnp.sin(nnx.merge(graph, state)(ids)))  # noqa: E731
            return jax.value_and_grad(loss)(state)

        loss, slopes = both(state)
        return loss, slopes["tokens"]["table"][...]

    for one, two in zip(slope(plain), slope(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_packed_documents_are_as_if_alone() -> None:
    model, first, second = make(), tokens(1, 4), tokens(1, 3, seed=1)
    packed = run(
        model,
        jnp.concatenate([first, second], axis=1),
        documents=jnp.array([[0, 0, 0, 0, 1, 1, 1]], jnp.int32),
        positions=jnp.array([[0, 1, 2, 3, 0, 1, 2]], jnp.int32),
    )
    np.testing.assert_allclose(packed[:, :4], run(model, first), atol=1e-5)
    np.testing.assert_allclose(packed[:, 4:], run(model, second), atol=1e-5)


def test_dropout_is_there_with_rngs_alone() -> None:
    model, ids = make(head="sequence"), tokens(B, T)
    graph, state = nnx.split(model)
    drop = jax.jit(lambda state, key: nnx.merge(graph, state)(ids, rngs=nnx.Rngs(dropout=key)))
    first, again, other = (drop(state, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()
    assert float(jnp.abs(first - run(model, ids)).max()) > 1e-3


def test_the_head_of_a_few_positions() -> None:
    """A loss over masked tokens wants logits there alone."""
    model, ids = make(), tokens(B, T)
    states, maps = model.states(ids, capture=True)
    assert {name: m.shape for name, m in maps.items()} == {
        "encoder/0/self": (B, 3, T, T),
        "encoder/1/self": (B, 3, T, T),
    }
    rows, columns = jnp.array([0, 0, 1]), jnp.array([1, 6, 3])
    np.testing.assert_allclose(
        model.say(states[rows, columns]), model(ids)[rows, columns], atol=1e-5
    )


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="FastWeightProgrammer is causal"):
        make(attention=FastWeightConfig(num_heads=3))
    with pytest.raises(ValueError, match=r"tokens has 10 positions, but max_length=9"):
        make()(tokens(1, 10))
    with pytest.raises(ValueError, match="head='lm' has no pooler"):
        make().pool(jnp.zeros((1, 2, D)))


def test_sizes() -> None:
    """The paper's 110 and 340 million (section 3), with its 30,522 word pieces."""
    counts = {}
    for name in ("base", "large"):
        config = dataclasses.replace(getattr(BertConfig, name)(), head="none")
        one, two = (count(dataclasses.replace(config, layers=n)) for n in (1, 2))
        counts[name] = one + (config.layers - 1) * (two - one)
    assert counts == {"base": 109_482_240, "large": 335_141_888}


def count(config: BertConfig) -> int:
    model = nnx.eval_shape(lambda: Bert(config, 30_522, rngs=nnx.Rngs(0)))
    return sum(leaf.size for leaf in convert.parameters(model).values())


def test_shared_blocks_are_a_model_that_repeats_them() -> None:
    """Logits, relevances and reports of attention are those of separate blocks, layer by layer."""
    kind = {"head": "sequence", "layers": 3, "dropout": 0.0, "attention_dropout": 0.0}
    shared, plain = make(layer_groups=2, **kind), make(**kind)
    numbers = shared.config.block_numbers
    assert numbers == (0, 0, 1)
    blocks = [nnx.state(block) for block in shared.encoder.blocks]
    nnx.update(plain, nnx.state(shared))
    for block, state in zip(plain.encoder.blocks, blocks, strict=True):
        nnx.update(block, state)
    ids, target = tokens(B, T), jnp.zeros((B,), jnp.int32)

    def explained(model: Bert, ids: Any) -> Any:
        reports = {}
        with_taps(model, True, reports.__setitem__)(ids)
        return model(ids), attn_lrp(model, target, ids), reports

    found, wanted = (_explained(explained, *nnx.split(model), ids) for model in (shared, plain))
    assert len(wanted[2]) == 3
    assert len(np.unique(np.asarray(list(wanted[2].values())), axis=0)) == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, wanted)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shared)))
    assert count < sum(leaf.size for leaf in jax.tree.leaves(nnx.state(plain)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _explained(function: Any, graph: Any, state: Any, ids: Any) -> Any:
    return function(nnx.merge(graph, state), ids)


def test_settings_of_shared_blocks_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"layer_groups=3, but there are layers=2"):
        make(layer_groups=3)
    with pytest.raises(ValueError, match="scan=true with layer_groups"):
        make(layer_groups=1, scan=True)


def test_padding_of_roberta_has_no_position() -> None:
    """Position 3 is that of the first token; token 2 is padding, wherever it stands."""
    model = make(head="none", pooler=False, position_offset=3, dropout=0.0)
    text = jnp.array([[5, 6, 2, 7, 8]], jnp.int32)
    rows = jnp.array([[3, 4, 2, 5, 6]], jnp.int32)
    counted, given = run(model, text), run(model, text, positions=rows)
    np.testing.assert_array_equal(counted, given)
    left = jnp.pad(text, ((0, 0), (2, 0)), constant_values=2)
    valid = jnp.arange(7)[None] > 1
    moved = run(model, left, valid=valid)
    np.testing.assert_allclose(moved[:, 2:], counted, rtol=0, atol=1e-5)
    documents = jnp.array([[1, 1, 1, 4, 4]], jnp.int32)
    packed = run(model, text, documents=documents)
    alone = run(model, text[:, 3:])
    np.testing.assert_allclose(packed[:, 3:], alone, rtol=0, atol=1e-5)
