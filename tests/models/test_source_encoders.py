"""Translators whose source is no text: every architecture with every encoder of sources."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from products import compiled, numbers
from random_parameters import drawn

from attnzoo.config.attention import MultiHeadConfig
from attnzoo.config.captioning import ShowAttendTellConfig
from attnzoo.config.image_sources import (
    ImageConvolutionConfig,
    ImageResNetConfig,
    ImageViTConfig,
)
from attnzoo.config.model import BahdanauConfig, LuongConfig
from attnzoo.config.sources import ImagePatchesConfig
from attnzoo.config.speech import SoundConvConfig, SoundPyramidConfig, SoundWhisperConfig
from attnzoo.config.transformer import TransformerConfig
from attnzoo.models import CAPTIONERS, SOURCES, TRANSLATORS
from attnzoo.models.source_registry import build_source
from attnzoo.models.sources import SourceEncoder

V = 11
ENCODERS: dict[str, Any] = {
    "image_patches": ImagePatchesConfig(patch=3, channels=3, dim=8),
    "sound_conv": SoundConvConfig(rate=400, mels=3, dim=6, recurrent=1),
    "sound_pyramid": SoundPyramidConfig(rate=400, mels=3, dim=6, halvings=1),
    "sound_whisper": SoundWhisperConfig(rate=400, mels=3, dim=8, length=12),
    "image_conv": ImageConvolutionConfig(widths=(5, 8)),
    "image_resnet": ImageResNetConfig(depth=8, width=4),
    "image_vit": ImageViTConfig(
        attention=MultiHeadConfig(num_heads=2), image_size=6, patch=3, dim=8, hidden=7, layers=1
    ),
}
HEADS = {"kind": "multi_head", "num_heads": 2}


def source_of(kind: str, seed: int = 0) -> Any:
    """Two sources; the second sound is shorter."""
    draw = np.random.default_rng(seed)
    if ENCODERS[kind].reads == "image":
        return jax.device_put(draw.normal(size=(2, 6, 9, 3)).astype(np.float32))
    samples = draw.normal(size=(2, 96))
    samples = np.where(np.arange(96) < [[96], [53]], samples, np.nan)
    return jax.device_put(samples.astype(np.float32))


def model_of(architecture: str, kind: str) -> Any:
    config: Any = {
        "bahdanau": BahdanauConfig(hidden=7, embedding=5, maxout=3, source=ENCODERS[kind]),
        "luong": LuongConfig(hidden=7, embedding=5, layers=2, source=ENCODERS[kind]),
        "transformer": TransformerConfig(
            dim=8, hidden=12, encoder_layers=1, decoder_layers=2, source=ENCODERS[kind]
        ),
        "show_attend_tell": ShowAttendTellConfig(hidden=7, embedding=5, source=ENCODERS[kind]),
    }[architecture]
    cls = (TRANSLATORS | CAPTIONERS)[architecture]
    return drawn(lambda: cls(config, 0, V, rngs=nnx.Rngs(0)), 0, 0.4)


ARCHITECTURES = ("bahdanau", "luong", "transformer", "show_attend_tell")


def test_every_encoder_is_here() -> None:
    assert set(ENCODERS) == set(SOURCES)
    models = TRANSLATORS | CAPTIONERS
    assert set(ARCHITECTURES) <= {kind for kind in models if "captioning" in _config(kind).tasks}


def _config(kind: str) -> Any:
    from attnzoo.config.experiment import ExperimentConfig
    from attnzoo.config.schema import fields_of

    kinds: dict[str, Any] = fields_of(ExperimentConfig)["model"].kinds
    return kinds[kind]


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_known_target_and_its_steps_agree(architecture: str, kind: str) -> None:
    model, source = model_of(architecture, kind), source_of(kind)
    target = np.asarray([[1, 4, 5, 6], [1, 7, 8, 9]], np.int32)

    def whole(model: Any) -> Any:
        return model(source, target, return_weights=True), model.start(source, max_length=5)

    found, (memory, state) = compiled(whole, model)()
    logits, weights = numbers(found)
    step = compiled(lambda model, *given: model.step(*given), model)
    for t in range(target.shape[1]):
        said, state, read = step(target[:, t], state, memory)
        np.testing.assert_allclose(said, logits[:, t], rtol=2e-4, atol=2e-5)
        if not model.full_context:
            np.testing.assert_allclose(read, weights[:, :, t], rtol=2e-4, atol=2e-5)
    assert weights.shape[-1] == model.source_length(source)


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if ENCODERS[kind].reads == "sound"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing(architecture: str, kind: str) -> None:
    model, source = model_of(architecture, kind), source_of(kind)
    target = jnp.asarray([[1, 4, 5], [1, 7, 8]], jnp.int32)
    run = nnx.jit(lambda model, source: model(source, target, return_weights=True))
    logits, weights = run(model, source)
    _, valid = build(kind)(source)
    assert float(jnp.max(jnp.where(valid[:, None, None], 0.0, weights))) == 0.0
    # A longer batch has the same logits.
    longer = jnp.pad(source, ((0, 0), (0, 37)), constant_values=jnp.nan)
    more, _ = run(model, longer)
    np.testing.assert_allclose(logits, more, rtol=2e-4, atol=2e-5)


def build(kind: str) -> SourceEncoder:
    encoder = build_source(ENCODERS[kind], rngs=nnx.Rngs(0))
    assert encoder is not None
    return encoder


@pytest.mark.parametrize("kind", SOURCES)
def test_an_encoder_keeps_its_promises(kind: str) -> None:
    encoder, source = build(kind), source_of(kind)
    features, valid = encoder(source)
    assert features.shape == (*valid.shape, encoder.dim)
    grid = encoder.grid(source)
    assert grid is None or grid[0] * grid[1] == valid.shape[1]
    assert (ENCODERS[kind].reads == "image") == (grid is not None)
