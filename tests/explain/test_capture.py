"""Capture: the weights themselves, their gradients, and errors that name what there is."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.attention import AdditiveAttention, MultiHeadAttention
from attnzoo.config.loader import load
from attnzoo.config.transformer import TransformerConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.explain import attention_names, capture_attention, weight_gradients
from attnzoo.models.transformer import Transformer
from attnzoo.models.vit import ViT
from attnzoo.ops.weights import WeightRequest

SMALL = ["image_size=4", "patch=2", "channels=1", "dim=6", "hidden=5", "layers=3"]
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 1)), jnp.float32)
NAMES = [f"encoder/{i}/self" for i in range(3)]


@cache
def vit(*overrides: str) -> ViT:
    config = load(ViTConfig, None, [*SMALL, "attention.num_heads=2", *overrides])
    model = ViT(config, 3, rngs=nnx.Rngs(1))
    # The head starts at 0, and so would every gradient.
    model.head.kernel[...] = jax.random.normal(jax.random.key(2), (6, 3), jnp.float32)
    return model


class Own(nnx.Module):
    """A model as a user would write it, with attentions of ours of two kinds; one is used twice."""

    def __init__(self, loop: bool = False):
        rngs = nnx.Rngs(3)
        self.layers = nnx.List([MultiHeadAttention(6, 3, num_kv_heads=1, rngs=rngs)])
        self.pool = AdditiveAttention(query_dim=6, key_dim=6, width=5, rngs=rngs)
        self.loop = loop

    def __call__(self, x):
        if self.loop:
            return jax.lax.scan(lambda x, _: (self.layers[0](x, x), None), x, None, length=2)[0]
        x = x + self.layers[0](x, x)
        x = x + self.layers[0](x, x)
        return self.pool(x[:, :1], x)[:, 0]


def test_weights_of_a_vit_with_scan_and_remat_are_those_of_the_plain_one() -> None:
    output, maps = capture_attention(vit(), IMAGES)
    assert list(maps) == NAMES == attention_names(vit(), IMAGES)
    assert maps[NAMES[0]].shape == (2, 2, 5, 5)
    np.testing.assert_allclose(maps[NAMES[2]].sum(-1), np.ones((2, 2, 5)), rtol=1e-6)
    np.testing.assert_allclose(output, vit()(IMAGES), rtol=1e-5)
    looped = vit("scan=true", "remat=full")
    for other in (capture_attention(looped, IMAGES)[1], jit_capture(looped)):
        np.testing.assert_allclose(other[NAMES[1]], maps[NAMES[1]], rtol=1e-4, atol=1e-6)


def jit_capture(model: ViT):
    return jax.jit(lambda images: capture_attention(model, images)[1])(IMAGES)


def test_only_what_is_asked_comes_back() -> None:
    full = capture_attention(vit(), IMAGES)[1]
    wanted = ("encoder/2/self", "encoder/0/self")
    for model in (vit(), vit("scan=true", "remat=full")):
        maps = capture_attention(model, IMAGES, what="column_mass", layers=wanted)[1]
        assert tuple(maps) == wanted
        np.testing.assert_allclose(maps[wanted[0]], full[wanted[0]].sum(2), rtol=1e-4)
    request = WeightRequest(rows=(0,), heads=(1,))
    report = capture_attention(vit(), IMAGES, what=request, layers=wanted[:1])[1][wanted[0]]
    np.testing.assert_allclose(report.weights[:, 0, 0], full[wanted[0]][:, 1, 0], rtol=1e-5)


def test_encoder_and_decoder_have_names() -> None:
    config = load(TransformerConfig, None, ["dim=6", "hidden=5", "encoder_layers=1",
                  "decoder_layers=1", "attention.num_heads=2", "cross_attention.num_heads=3",
                  "norm=pre"])  # fmt: skip
    model = Transformer(config, 7, 11, rngs=nnx.Rngs(0))
    source, target = jnp.asarray([[4, 5, 6]]), jnp.asarray([[1, 4, 5, 6]])
    logits, maps = capture_attention(model, source, target)
    assert set(maps) == {"encoder/0/self", "decoder/0/self", "decoder/0/cross"}
    assert maps["decoder/0/cross"].shape == (1, 3, 4, 3)
    of_the_last = jax.jit(lambda *inputs: weight_gradients(model, lambda y: y[:, -1, 4], *inputs))
    found = of_the_last(source, target)
    np.testing.assert_allclose(found.output, logits, rtol=1e-5, atol=1e-6)
    # What the last position says does not depend on what the others read in the last layer.
    assert (found.gradients["decoder/0/cross"][:, :, :-1] == 0).all()
    assert (found.gradients["decoder/0/cross"][:, :, -1] != 0).all()


@pytest.mark.parametrize("overrides", [(), ("scan=true", "remat=full")])
def test_gradients_by_the_weights_are_finite_differences(overrides: tuple[str, ...]) -> None:
    model, classes = vit(*overrides), jnp.asarray([2, 0])
    found = weight_gradients(model, classes, IMAGES)
    plain = capture_attention(vit(), IMAGES)[1][NAMES[0]]
    np.testing.assert_allclose(found.weights[NAMES[0]], plain, rtol=1e-4, atol=1e-6)
    for layer, (n, t, s) in ((0, (1, 2, 3)), (2, (0, 0, 4))):
        expected = difference(vit(), layer, n, t, s)
        got = found.gradients[NAMES[layer]][:, n, t, s]
        np.testing.assert_allclose(got, expected, rtol=2e-2, atol=1e-4)
    # Only the class token is read after the last layer.
    assert (found.gradients[NAMES[2]][:, :, 1:] == 0).all()


def difference(model: ViT, layer: int, n: int, t: int, s: int) -> np.ndarray:
    """df/dw by moving one weight, in a forward pass of its own: softmax(qk) v written out."""

    def forward(step: float) -> np.ndarray:
        x = model.embed(IMAGES)
        for i, block in enumerate(model.encoder.blocks):
            attention = block.attention.mechanism
            h = block.attention_norm(x)
            q, k, v = (
                p(h).reshape(2, 5, 2, 3) for p in (attention.query, attention.key, attention.value)
            )
            w = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(3), axis=-1)
            w = w.at[:, n, t, s].add(step if i == layer else 0.0)
            x = x + attention.out(jnp.einsum("bnts,bsnh->btnh", w, v).reshape(2, 5, 6))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        logits = np.asarray(model.classify(model.norm(x)))
        return np.stack([logits[0, 2], logits[1, 0]])

    return (forward(0.05) - forward(-0.05)) / 0.1


def test_a_model_of_ones_own() -> None:
    model, x = Own(), jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 6)), jnp.float32)
    output, maps = capture_attention(model, x)
    assert list(maps) == ["layers/0", "layers/0:1", "pool"]
    np.testing.assert_allclose(output, model(x), rtol=1e-5)
    want = model.layers[0](x, x, return_weights=True)[1]
    np.testing.assert_allclose(maps["layers/0"], want, rtol=1e-5)
    assert maps["pool"].shape == (2, 1, 1, 5)
    assert (maps["layers/0:1"] != maps["layers/0"]).any()


def test_one_attention_is_a_model_too() -> None:
    attention = MultiHeadAttention(6, 2, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 3, 6))
    _, maps = capture_attention(attention, x, x, what="entropy")
    np.testing.assert_allclose(maps["attention"], np.full((1, 2, 3), np.log(3)), rtol=1e-5)


def test_errors_name_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"encoder/3/self.*encoder/0/self, .*encoder/2/self"):
        capture_attention(vit(), IMAGES, layers=["encoder/3/self"])
    with pytest.raises(NotImplementedError, match="Linear has no attention"):
        capture_attention(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="target=3; there are 3 classes, 0 to 2"):
        weight_gradients(vit(), 3, IMAGES)
    with pytest.raises(NotImplementedError, match=r"Own calls its attention inside jax\.lax\.scan"):
        capture_attention(Own(loop=True), jnp.ones((1, 2, 6)))
    with pytest.raises(NotImplementedError, match="layers/0: called more than once"):
        weight_gradients(Own(), 0, jnp.ones((1, 2, 6)), layers=["layers/0"])
    with pytest.raises(NotImplementedError, match="LinearAttention"):
        weight_gradients(vit("attention.kind=linear"), 0, IMAGES)
