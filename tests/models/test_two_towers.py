"""CLIP's and SigLIP's two encoders: pooling, padding, zero-shot classes, and rotary patches."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from products import attention_fields, build, close, config_of, drawn_model, refusal, small, traced

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.two_towers import TextTowerConfig, TwoTowersConfig
from attnzoo.config.vit import ViTConfig
from attnzoo.models.vit import ViT
from attnzoo.ops.rotary import GridRotary, patch_coordinates

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(3, 8, 8, 1)), jnp.float32)
TOKENS = jnp.asarray([[1, 5, 6, 2, 7, 2], [1, 8, 12, 9, 12, 2]], jnp.int32)


def towers(**text: Any) -> Any:
    config = config_of("two_towers")
    settings = {"eos_id": 2, "is_causal": False, **text}
    return drawn_model(
        dataclasses.replace(config, text=dataclasses.replace(config.text, **settings))
    )


def test_the_pooled_state_is_that_of_the_end_the_largest_id_or_the_last() -> None:
    found = {}
    for pooling in ("end", "largest", "last"):
        model = towers(pooling=pooling)
        found[pooling] = model.text(TOKENS)[0]
        at = {"end": [3, 5], "largest": [4, 2], "last": [5, 5]}[pooling]
        assert model.text.place(TOKENS).tolist() == at
    close(found["end"][1], found["last"][1])
    assert np.abs(found["end"] - found["largest"]).max() > 0.1


def test_padding_is_not_read_unless_it_stands_for_the_text() -> None:
    model, longer = towers(), jnp.pad(TOKENS, ((0, 0), (0, 3)))
    valid = jnp.arange(9)[None] < jnp.asarray([[6], [6]])
    close(model.text_features(longer, valid=valid), model.text_features(TOKENS))
    causal = towers(is_causal=True)
    close(causal.text_features(longer), causal.text_features(TOKENS))
    last = towers(pooling="last")
    assert np.abs(last.text_features(longer) - last.text_features(TOKENS)).max() > 0.01


@pytest.mark.parametrize("dim", [8, None])
def test_a_classifier_of_texts_has_the_logits_of_the_pairs(dim: int | None) -> None:
    model = drawn_model(config_of("two_towers", dim=dim, logit_bias=-3.0))
    classes = model.zero_shot(model.text_features(TOKENS))
    close(classes(IMAGES), model(IMAGES, TOKENS))
    assert classes(IMAGES).shape == (3, 2)
    assert isinstance(classes, ViT)


@pytest.mark.parametrize("kind", attention_fields(TextTowerConfig)["attention"])
def test_every_attention_reads_texts_or_is_refused_in_one_line(kind: str) -> None:
    attention: Any = small(attention_fields(TextTowerConfig)["attention"][kind])
    for is_causal in (True, False):
        text = small(TextTowerConfig, attention=attention, is_causal=is_causal)
        config = config_of("two_towers", text=text)
        if refusal(build, config) is None:
            assert traced(lambda m: m(IMAGES, TOKENS), build(config)).shape == (3, 2)


def test_named_sizes_have_the_published_numbers_of_weights() -> None:
    for config, vocabulary, millions in (
        (TwoTowersConfig.clip_base(), 49_408, 151.3),
        (TwoTowersConfig.siglip_base(), 32_000, 203.2),
    ):
        model = nnx.eval_shape(lambda c=config, v=vocabulary: build_large(c, v))
        leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
        count = sum(int(np.prod(leaf.shape)) for _, leaf in leaves)
        assert round(count / 1e6, 1) == millions


def build_large(config: Any, vocabulary: int) -> Any:
    from attnzoo.models import TwoTowers

    return TwoTowers(config, vocabulary, rngs=nnx.Rngs(0))


def test_rotary_rows_and_columns_by_hand() -> None:
    rotary, x = GridRotary(base=100.0), jnp.eye(8, dtype=jnp.float32)[None, None]
    x = jnp.broadcast_to(x, (1, 3, 8, 8))
    at = jnp.asarray([[[0.0, 0.0], [0.25, 0.0], [0.0, 2.5]]], jnp.float32)
    found = np.asarray(rotary(x, at, 3))[0]
    np.testing.assert_array_equal(found[0], np.eye(8))
    # A quarter turn of the fastest pair of rows, and of the slower pair of columns (1/10).
    wanted = np.eye(8)
    wanted[[0, 4]] = np.eye(8)[4], -np.eye(8)[0]
    np.testing.assert_allclose(found[1][[0, 4]], wanted[[0, 4]], atol=1e-6)
    np.testing.assert_allclose(found[2][3], np.eye(8)[7], atol=1e-6)
    np.testing.assert_array_equal(
        patch_coordinates(2, 4, 1)[0],
        [[0, 0], *([y, x] for y in (-0.5, 0.5) for x in (-0.75, -0.25, 0.25, 0.75))],
    )


def test_rotary_patches_take_images_that_are_not_square() -> None:
    config = small(ViTConfig, attention=MultiHeadConfig(num_heads=2), positions="rotary")
    model = drawn_model(config)
    wide = jnp.asarray(RNG.normal(size=(1, 4, 16, 1)), jnp.float32)
    moved = jnp.roll(wide, 2, axis=2)
    assert np.isfinite(model(wide)).all()
    assert np.abs(model(wide) - model(moved)).max() > 1e-3
    none = drawn_model(dataclasses.replace(config, positions="none"))
    close(none(wide), none(moved))
