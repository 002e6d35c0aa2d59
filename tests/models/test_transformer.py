"""The Transformer: what must hold of any, whatever attends in it."""

import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.attention import (
    Additive,
    FactorisedPositional,
    FastWeight,
    Latent,
    Linear,
    MultiHead,
    Positional,
    SelfAttention,
    Synthesizer,
)
from attnzoo.config.transformer import Transformer as Config
from attnzoo.models import TRANSLATORS, Transformer
from attnzoo.tasks.translation import translation_loss

VS, VT = 13, 11
HEADS = MultiHead(num_heads=2)
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
SETTINGS: dict[str, Any] = {
    "multi_head": MultiHead(num_heads=4, num_kv_heads=2, qk_norm=True, window=3, sinks=True),
    "latent": Latent(num_heads=2, latent_dim=6, rotary_dim=2, head_dim=3),
    "positional": Positional(num_heads=2, **SLOTS),
    "factorised_positional": FactorisedPositional(num_heads=2, **SLOTS),
    "synthesizer": Synthesizer(num_heads=2, **SLOTS),
}
KINDS = {cls.kind: cls for cls in get_args(get_args(SelfAttention)[0])}
CAUSAL_ALONE = {"fast_weight", "delta_net", "gated_linear", "retnet"}


def build(config: Config = CONFIG, seed: int = 0) -> Transformer:
    """The model with every parameter drawn, so that no norm or bias is at a special value."""
    model = Transformer(config, VS, VS if config.tied == "all" else VT, rngs=nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    graph, state = nnx.split(model)
    state = jax.tree.map(lambda x: x + jnp.float32(0.1 * random.normal(size=x.shape)), state)
    return nnx.merge(graph, state)


def of_kind(kind: str) -> Config:
    """The attention of the target's past, and of the source where it can look ahead."""
    attention = SETTINGS.get(kind) or KINDS[kind]()
    source = HEADS if kind in CAUSAL_ALONE else attention
    return dataclasses.replace(CONFIG, attention=source, decoder_attention=attention)


def step_by_step(model: Transformer, max_length: int = 6) -> tuple[jax.Array, jax.Array]:
    @jax.jit
    def decode(state: Any, source: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graph, state)
        memory, past = model.start(source, max_length=max_length)
        found = []
        for t in range(target.shape[1]):
            logits, past, weights = model.step(target[:, t], past, memory)
            found.append((logits, weights))
        return jnp.stack([f[0] for f in found], 1), jnp.stack([f[1] for f in found], 2)

    graph, state = nnx.split(model)
    return decode(state, SOURCE, TARGET)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_teacher_forcing(kind: str) -> None:
    model = build(of_kind(kind))
    logits, weights = model(SOURCE, TARGET, return_weights=True)
    one_by_one, seen = step_by_step(model)
    np.testing.assert_allclose(one_by_one, logits, atol=3e-5, rtol=1e-5)
    np.testing.assert_allclose(seen, weights, atol=1e-5)
    assert weights.shape == (3, 2, 5, 7)
    # Padding of the source has no weight.
    assert float(jnp.abs(weights[1, :, :, 5:]).max()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_has_no_gradient(kind: str) -> None:
    graph, state = nnx.split(build(dataclasses.replace(of_kind(kind), tied="none")))
    state = nnx.to_pure_dict(state)
    size = state["target_embedding"]["table"].shape
    rows = jnp.float32(np.random.default_rng(1).normal(size=size))

    @jax.jit
    def gradient(t: jax.Array) -> jax.Array:
        def read(rows: jax.Array) -> jax.Array:
            # Row i of the table is the word at place i and no other.
            model = nnx.merge(graph, {**state, "target_embedding": {"table": rows}})
            logits = model(SOURCE[:1], jnp.arange(5, dtype=jnp.int32)[None])
            return jnp.sum(jnp.sin(logits[0, t]))

        return jnp.linalg.norm(jax.grad(read)(rows)[:5], axis=1)

    for t in (0, 2):
        size = gradient(jnp.int32(t))
        assert float(size[t]) > 0
        assert float(jnp.abs(size[t + 1 :]).max()) == 0


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kind", ["multi_head", "linear"])
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
    gradient = jax.grad(lambda s: translation_loss(nnx.merge(graph, s), batch)[0])(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # A constant added to every key of a query changes no weight.
        if "'key'" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path):
            continue
        assert float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("kind", ["multi_head", "fast_weight", "additive"])
def test_scanned_layers_are_unrolled_ones_and_remat_changes_nothing(kind: str) -> None:
    plain = of_kind(kind)
    batch = {"source": SOURCE, "target": TARGET}
    results = []
    for scan, remat in ((False, "none"), (True, "none"), (True, "full"), (False, "dots")):
        model = Transformer(
            dataclasses.replace(plain, scan=scan, remat=remat), VS, VT, rngs=nnx.Rngs(0)
        )
        graph, state = nnx.split(model)
        value, gradient = jax.value_and_grad(
            lambda s, graph=graph: translation_loss(nnx.merge(graph, s), batch)[0]
        )(state)
        norms = [float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)]
        results.append((float(value), sum(norms)))
    np.testing.assert_allclose(results, [results[0]] * 4, rtol=2e-5)


def test_scanned_dropout_and_maps() -> None:
    config = dataclasses.replace(CONFIG, dropout=0.5, scan=True)
    model = Transformer(config, VS, VT, rngs=nnx.Rngs(0))
    _, maps = model(SOURCE, TARGET, capture=True)
    assert list(maps) == [
        *(f"encoder/{i}/self" for i in range(2)),
        *(f"decoder/{i}/{name}" for i in range(3) for name in ("cross", "self")),
    ]
    unrolled = Transformer(dataclasses.replace(config, scan=False), VS, VT, rngs=nnx.Rngs(0))
    _, same = unrolled(SOURCE, TARGET, capture=True)
    for name, weights in maps.items():
        np.testing.assert_allclose(weights, same[name], atol=1e-6)
    first, second = (model(SOURCE, TARGET, rngs=nnx.Rngs(dropout=seed)) for seed in (0, 1))
    again = model(SOURCE, TARGET, rngs=nnx.Rngs(dropout=0))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - second).max()) > 0.01


def test_padding_of_the_source_changes_nothing() -> None:
    model = build()
    longer = jnp.pad(SOURCE, ((0, 0), (0, 4)))
    np.testing.assert_allclose(model(longer, TARGET), model(SOURCE, TARGET), atol=2e-6)
    alone = model(SOURCE[2:, :2], TARGET[2:])
    np.testing.assert_allclose(alone, model(SOURCE, TARGET)[2:], atol=2e-6)


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
            dataclasses.replace(CONFIG, attention=FastWeight(num_heads=2)), VS, VT, rngs=nnx.Rngs(0)
        )
    slots = dataclasses.replace(CONFIG, attention=Positional(max_length=5))
    with pytest.raises(ValueError, match=r"attention.max_length=5 is below max_length=17"):
        Transformer(slots, VS, VT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"alignment_layer=3.*0 \.\. 2"):
        dataclasses.replace(CONFIG, alignment_layer=3)


@pytest.mark.parametrize("cross", [Additive(), Linear(num_heads=2)])
def test_the_cross_attention_is_a_line_of_config_too(cross: Any) -> None:
    model = TRANSLATORS["transformer"](
        dataclasses.replace(CONFIG, cross_attention=cross), VS, VT, rngs=nnx.Rngs(0)
    )
    logits, weights = model(SOURCE, TARGET, return_weights=True)
    one_by_one, seen = step_by_step(model)
    np.testing.assert_allclose(one_by_one, logits, atol=3e-5)
    np.testing.assert_allclose(seen, weights, atol=1e-5)
