"""The Transformer: what must hold of any, whatever attends in it."""

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
    LinearConfig,
    MultiHeadConfig,
    PositionalConfig,
)
from attnzoo.config.transformer import TransformerConfig as Config
from attnzoo.models import Transformer
from attnzoo.tasks.translation import translation_loss

VS, VT = 13, 11
HEADS = MultiHeadConfig(num_heads=2)
CONFIG = Config(
    attention=HEADS,
    cross_attention=HEADS,
    dim=8,
    hidden=10,
    encoder_layers=2,
    decoder_layers=3,
    max_length=17,
    dropout=0.0,
)
RNG = np.random.default_rng(0)
SOURCE = jnp.int32(np.where(np.arange(7) < [[7], [5], [2]], RNG.integers(4, VS, (3, 7)), 0))
TARGET = jnp.int32(RNG.integers(4, VT, (3, 5)))
SLOTS = {"max_length": 17}


def build(config: Config = CONFIG, seed: int = 0) -> Transformer:
    """The model with every parameter drawn, so that no norm or bias is at a special value."""
    target = VS if config.tied == "all" else VT
    return drawn(lambda: Transformer(config, VS, target, rngs=nnx.Rngs(seed)), seed, 0.4, 0.1)


OF_KIND = {
    "multi_head": MultiHeadConfig(num_heads=4, num_kv_heads=2, qk_norm=True, window=3, sinks=True),
    "linear": LinearConfig(),
    "fast_weight": FastWeightConfig(),
}


def of_kind(kind: str) -> Config:
    """The attention of the target's past, and of the source where it can look ahead."""
    attention = OF_KIND[kind]
    source = HEADS if kind == "fast_weight" else attention
    return dataclasses.replace(
        CONFIG, attention=source, decoder_attention=attention, encoder_layers=1, decoder_layers=2
    )


def test_the_future_has_no_gradient() -> None:
    graph, state = nnx.split(build(dataclasses.replace(CONFIG, tied="none")))
    state = nnx.to_pure_dict(state)
    size = state["target_embedding"]["table"].shape
    rows = jnp.float32(np.random.default_rng(1).normal(size=size))

    @jax.jit
    def gradient(state: Any, rows: jax.Array, t: jax.Array) -> jax.Array:
        def read(rows: jax.Array) -> jax.Array:
            # Row i of the table is the word at place i and no other.
            model = nnx.merge(graph, {**state, "target_embedding": {"table": rows}})
            logits = model(SOURCE[:1], jnp.arange(5, dtype=jnp.int32)[None])
            return jnp.sum(jnp.sin(logits[0, t]))

        return jnp.linalg.norm(jax.grad(read)(rows)[:5], axis=1)

    for t in (0, 2):
        size = gradient(state, rows, jnp.int32(t))
        assert float(size[t]) > 0
        assert float(jnp.abs(size[t + 1 :]).max()) == 0


@pytest.mark.parametrize(("kind", "norm"), [("multi_head", "pre"), ("linear", "post")])
def test_every_parameter_receives_a_gradient(kind: str, norm: str) -> None:
    config = dataclasses.replace(
        of_kind(kind),
        norm=norm,
        tied="none",
        positions="learned",
        embedding_norm=True,
        output_bias=True,
    )
    graph, state = nnx.split(build(config))
    batch = {"source": SOURCE, "target": TARGET}
    loss = jax.jit(jax.grad(lambda s: translation_loss(nnx.merge(graph, s), batch)[0]))
    gradient = loss(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # A constant added to every key of a query changes no weight.
        if "'key'" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path):
            continue
        assert float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("kind", ["multi_head", "fast_weight"])
def test_scanned_layers_are_unrolled_ones_and_remat_changes_nothing(kind: str) -> None:
    plain = of_kind(kind)
    batch = {"source": SOURCE, "target": TARGET}
    results = []
    for scan, remat in ((False, "none"), (True, "full"), (False, "dots")):
        config = dataclasses.replace(plain, scan=scan, remat=remat)
        graph, state = nnx.split(Transformer(config, VS, VT, rngs=nnx.Rngs(0)))

        @jax.jit
        def run(state: Any, batch: Any, graph: Any = graph) -> Any:
            value, gradient = jax.value_and_grad(
                lambda s: translation_loss(nnx.merge(graph, s), batch)[0]
            )(state)
            return value, sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

        results.append([float(x) for x in run(state, batch)])
    np.testing.assert_allclose(results, [results[0]] * 3, rtol=2e-5)


def test_scanned_dropout_and_maps() -> None:
    config = dataclasses.replace(CONFIG, dropout=0.5, scan=True)

    (graph, state), (unrolled, states) = (
        nnx.split(Transformer(one, VS, VT, rngs=nnx.Rngs(0)))
        for one in (config, dataclasses.replace(config, scan=False))
    )
    listed = []

    @functools.partial(jax.jit, static_argnums=0)
    def captured(graph: Any, state: Any, source: jax.Array, target: jax.Array) -> Any:
        _, maps = nnx.merge(graph, state)(source, target, capture=True)
        listed.append([*maps])  # jit gives them back sorted
        return maps

    maps, same = (captured(*one, SOURCE, TARGET) for one in ((graph, state), (unrolled, states)))
    assert listed[0] == [
        *(f"encoder/{i}/self" for i in range(2)),
        *(f"decoder/{i}/{name}" for i in range(3) for name in ("cross", "self")),
    ]
    for name, weights in maps.items():
        np.testing.assert_allclose(weights, same[name], atol=1e-6)
    dropped = jax.jit(
        lambda s, key: nnx.merge(graph, s)(SOURCE, TARGET, rngs=nnx.Rngs(dropout=key))
    )
    first, again, second = (dropped(state, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - second).max()) > 0.01


def test_padding_of_the_source_changes_nothing() -> None:
    graph, state = nnx.split(build())
    read = jax.jit(lambda state, *texts: nnx.merge(graph, state)(*texts))
    wanted, longer = read(state, SOURCE, TARGET), jnp.pad(SOURCE, ((0, 0), (0, 4)))
    np.testing.assert_allclose(read(state, longer, TARGET), wanted, atol=2e-6)
    np.testing.assert_allclose(read(state, SOURCE[2:, :2], TARGET[2:]), wanted[2:], atol=2e-6)


def test_sizes_of_the_paper() -> None:
    """Table 3 of Vaswani et al. 2017: 65 and 213 million weights with 37,000 word pieces."""
    for config, millions in ((Config.base(), 63), (Config.big(), 214)):
        model = nnx.eval_shape(
            lambda config=config: Transformer(config, 37_000, 37_000, rngs=nnx.Rngs(0))
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert round(count / 1e6) == millions


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"tied=all wants one vocabulary.*13.*11"):
        Transformer(dataclasses.replace(CONFIG, tied="all"), VS, VT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="FastWeightProgrammer is causal"):
        Transformer(
            dataclasses.replace(CONFIG, attention=FastWeightConfig(num_heads=2)),
            VS,
            VT,
            rngs=nnx.Rngs(0),
        )
    slots = dataclasses.replace(CONFIG, attention=PositionalConfig(max_length=5))
    with pytest.raises(ValueError, match=r"attention.max_length=5 is below max_length=17"):
        Transformer(slots, VS, VT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"alignment_layer=3.*0 \.\. 2"):
        dataclasses.replace(CONFIG, alignment_layer=3)
