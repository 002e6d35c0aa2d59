"""DETR is what the paper says: a set of queries that read a picture; and so are its variants."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from products import config_of, pairs, refusal
from random_parameters import drawn

from attnzoo.config.attention import AdditiveConfig, MultiHeadConfig
from attnzoo.config.detection import DetrConfig
from attnzoo.models.detr import Detections, Detr, GaussianPrior, cell_centres

HEADS = MultiHeadConfig(num_heads=2)
SMALL = DetrConfig(
    attention=HEADS, cross_attention=HEADS, width=4, stages=1, blocks=1, dim=8, hidden=11,
    encoder_layers=1, decoder_layers=2, num_queries=5, channels=1,
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "paper": {},
    "anchors": {"queries": "anchors", "prior": "gaussian"},
    "proposals": {"queries": "proposals", "scores": "sigmoid", "norm": "pre", "prior": "gaussian"},
}
IMAGES = jnp.asarray(np.random.default_rng(0).normal(0, 1, (3, 12, 20, 1)), jnp.float32)


def model_of(kind: str, **more: Any) -> Detr:
    config = dataclasses.replace(SMALL, **KINDS[kind], **more)
    return drawn(lambda: Detr(config, 3, rngs=nnx.Rngs(0)), 3, 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_maps(kind: str) -> None:
    model = model_of(kind)
    found, maps = nnx.jit(lambda m, x: m(x, capture=True))(model, IMAGES)
    softmax = model.config.scores == "softmax"
    assert found.layers.logits.shape == (2, 3, 5, 3 + softmax)
    assert found.last.boxes.shape == (3, 5, 4)
    assert ((found.layers.boxes > 0) & (found.layers.boxes < 1)).all()
    assert (found.proposals is None) == (kind != "proposals")
    assert model.grid(IMAGES) == (3, 5)
    names = {"encoder/0/self", *(f"decoder/{i}/{x}" for i in (0, 1) for x in ("self", "cross"))}
    assert set(maps) == names
    assert maps["decoder/1/cross"].shape == (3, 2, 5, 15)
    np.testing.assert_allclose(maps["decoder/1/cross"].sum(axis=-1), 1, rtol=1e-5)


def test_margins_are_not_attended_to() -> None:
    model = model_of("proposals")
    # Two of five columns of cells, and one of three rows: the batch norms see them, nothing else.
    extent = jnp.asarray([[1.0, 0.6], [1 / 3, 1.0], [1.0, 1.0]])

    def run(model: Detr, images: Any) -> tuple[Detections, Any]:
        return model(images, extent=extent, capture=True)

    found, maps = nnx.jit(run)(model, IMAGES)
    cells = np.asarray(found.cells).reshape(3, 3, 5)
    wanted = np.ones((3, 3, 5), bool)
    wanted[0][:, [0, 4]] = wanted[1][[0, 2]] = False
    np.testing.assert_array_equal(cells, wanted)
    for name in ("encoder/0/self", "decoder/1/cross"):
        hidden = ~np.asarray(found.cells)[:, None, None]
        weights = np.asarray(maps[name])
        assert (np.where(hidden, weights, 0) == 0).all(), name


def test_queries_are_a_set() -> None:
    model = model_of("anchors")
    order = jnp.asarray([3, 0, 4, 1, 2])
    found = nnx.jit(lambda m: m(IMAGES))(model)
    model.queries[...] = model.queries[...][order]
    model.anchors[...] = model.anchors[...][order]
    turned = nnx.jit(lambda m: m(IMAGES))(model)
    for one, other in zip(found.layers, turned.layers, strict=True):
        np.testing.assert_allclose(one[:, :, order], other, atol=2e-5)
    assert np.abs(np.asarray(found.layers.boxes - turned.layers.boxes)).max() > 1e-3


def test_positions_are_added_to_queries_and_keys_alone() -> None:
    model = model_of("paper")
    block = model.decoder.blocks[0]
    random = np.random.default_rng(1)
    x, places = (jnp.asarray(random.normal(0, 1, (2, 5, 8)), jnp.float32) for _ in range(2))
    memory, at = (jnp.asarray(random.normal(0, 1, (2, 7, 8)), jnp.float32) for _ in range(2))
    own = block.attention.mechanism
    x1 = block.attention_norm(x + own(x + places, x + places, x))
    x2 = block.cross_norm(x1 + block.cross_attention(x1 + places, memory + at, memory))
    wanted = block.feed_forward_norm(x2 + block.feed_forward(x2))
    found, _ = block(x, encoded=memory, places=places, encoded_places=at)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_prior_is_a_gaussian_around_the_box() -> None:
    boxes = jnp.asarray([[[0.5, 0.5, 0.4, 0.8], [0.1, 0.1, 0.001, 0.001]]])
    prior = GaussianPrior(boxes, jnp.asarray([1.0, 2.0]), (3, 5))
    bias = np.asarray(prior.to_dense(1, 2, 2, 15)).reshape(2, 2, 3, 5)
    assert bias[0, 0, 1, 2] == pytest.approx(0, abs=1e-6)
    # One column, .2, is half the width; one row, 1/3, is 1/3 / .4 of half the height.
    assert bias[0, 0, 1, 3] == pytest.approx(-0.5, rel=1e-5)
    assert bias[1, 0, 0, 2] == pytest.approx(-((1 / 3 / 0.4) ** 2), rel=1e-5)
    # A small box counts as a cell: its own is near, the next column is one away.
    assert bias[0, 1, 0, 1] - bias[0, 1, 0, 0] == pytest.approx(-0.5, rel=1e-4)
    gradient = jax.grad(lambda f: GaussianPrior(boxes, f, (3, 5)).to_dense(1, 2, 2, 15).sum())
    assert np.isfinite(gradient(jnp.ones(2))).all()


def test_before_training_a_proposal_stands_at_its_cell() -> None:
    model = Detr(dataclasses.replace(SMALL, **KINDS["proposals"]), 3, rngs=nnx.Rngs(0))
    found = nnx.jit(lambda m: m(IMAGES))(model)
    assert found.proposals is not None
    np.testing.assert_allclose(found.proposals.boxes[1, :, :2], cell_centres((3, 5)), atol=1e-5)
    np.testing.assert_allclose(found.proposals.boxes[..., 2:], 0.1, rtol=1e-4)
    score = jax.nn.sigmoid(found.proposals.logits)
    assert 0.001 < float(score.mean()) < 0.1


def test_training_learns_batch_norms_and_every_parameter_has_a_gradient() -> None:
    # In the paper's first block the queries' states are 0, and so are gradients of their values.
    for kind in ("anchors", "proposals"):
        model = model_of(kind)

        def loss(model: Detr) -> Any:
            found = model(IMAGES, rngs=nnx.Rngs(dropout=0))
            parts = [*found.layers, *(found.proposals or ())]
            return sum(jnp.sum(jnp.sin(7 * part)) for part in parts)

        before = jnp.copy(model.backbone.stem_norm.mean[...])
        gradients = nnx.jit(nnx.grad(loss))(model)
        assert (before != model.backbone.stem_norm.mean[...]).any()
        for path, gradient in nnx.to_flat_state(gradients):
            assert np.any(np.asarray(gradient[...])), (kind, path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 6}, "dim=6 is not divisible by 4"),
        ({"prior": "gaussian"}, "prior=gaussian needs the box of a query"),
        ({**KINDS["anchors"], "cross_attention": AdditiveConfig()}, "AdditiveAttention, which has"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detr(dataclasses.replace(SMALL, **settings), 3, rngs=nnx.Rngs(0))


def test_pictures_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="wanted B h w C with channels=1"):
        model_of("paper")(jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="num_queries=5 of a picture with 2 x 2 cells"):
        model_of("proposals")(jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize(("kind", "attention"), pairs("detr"))
def test_every_attention_reads_a_picture_or_is_refused(kind: str, attention: str) -> None:
    config = config_of(kind, attention)
    refused = refusal(Detr, config, 3, rngs=nnx.Rngs(0))
    if refused is None:
        model = nnx.eval_shape(lambda: Detr(config, 3, rngs=nnx.Rngs(0)))
        refused = refusal(nnx.eval_shape, lambda m: m(IMAGES[:, :8, :8], capture=True), model)
    if refused is not None:
        assert "\n" not in str(refused)
    # What the paper has, and its relatives, must work.
    assert refused is None or attention not in ("multi_head", "additive", "cosine", "linear")
