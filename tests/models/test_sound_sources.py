"""Encoders of sounds: lengths, padding, masks in training only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.speech import SoundConvConfig, SoundPyramidConfig, SpecAugmentConfig
from attnzoo.models.sound_sources import SoundConv, SoundPyramid

SMALL = {"rate": 1000, "mels": 7, "normalise": True}
ENCODERS = {
    "conv": (SoundConv, SoundConvConfig(dim=6, **SMALL)),
    "conv recurrent": (SoundConv, SoundConvConfig(dim=6, recurrent=2, dropout=0.3, **SMALL)),
    "pyramid": (SoundPyramid, SoundPyramidConfig(dim=6, halvings=2, dropout=0.3, **SMALL)),
    "pyramid 8": (SoundPyramid, SoundPyramidConfig(dim=4, halvings=3, **SMALL)),
}
SOUND = np.random.default_rng(0).normal(size=467).astype(np.float32)


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_nothing(name):
    """A sound of 46 frames has the same features alone and in a batch; no gradient is lost."""
    make, config = ENCODERS[name]
    encoder = make(config, rngs=nnx.Rngs(0))
    batch = np.full((2, 803), np.nan, np.float32)
    batch[0, : len(SOUND)], batch[1] = SOUND, np.random.default_rng(1).normal(size=803)
    run = nnx.jit(lambda encoder, source: encoder(source))
    features, valid = run(encoder, jnp.asarray(batch))
    alone, all_valid = run(encoder, jnp.asarray(SOUND)[None])
    count = -(-46 // encoder.step)
    assert alone.shape == (1, count, encoder.dim)
    assert all_valid.all()
    assert valid.sum(axis=1).tolist() == [count, -(-80 // encoder.step)]
    np.testing.assert_allclose(features[0, :count], alone[0], atol=3e-5)
    assert np.isfinite(features).all()

    def loss(encoder):
        features, valid = encoder(jnp.asarray(batch))
        return jnp.sum(jnp.where(valid[:, :, None], jnp.tanh(features) ** 2, 0.0))

    for path, gradient in nnx.to_flat_state(nnx.grad(loss)(encoder)):
        assert np.isfinite(gradient[...]).all(), path
        assert np.any(gradient[...]), path


@pytest.mark.parametrize("name", ["conv", "pyramid", "pyramid 8"])
def test_a_click_is_at_its_time(name):
    """The feature that changes most by a click lies at ``centre`` and ``seconds``."""
    make, config = ENCODERS[name]
    encoder = make(config, rngs=nnx.Rngs(3))
    quiet = 0.1 * np.random.default_rng(2).normal(size=(1, 960)).astype(np.float32)
    for at in (0.2, 0.5, 0.8):
        click = quiet.copy()
        click[0, int(960 * at) : int(960 * at) + 8] += 3
        change = np.abs(encoder(jnp.asarray(click))[0] - encoder(jnp.asarray(quiet))[0]).sum(-1)
        place = int(change[0].argmax())
        time = (encoder.step * place + encoder.centre) * 0.01
        assert abs(time - 0.96 * at) <= 0.02 + encoder.seconds / 2


def test_masks_are_of_training_alone():
    config = SoundConvConfig(
        dim=6, **SMALL, augment=SpecAugmentConfig(frequency_width=3, time_width=5)
    )
    encoder = SoundConv(config, rngs=nnx.Rngs(0))
    sound = jnp.asarray(SOUND)[None]
    plain = encoder(sound)[0]
    masked = [encoder(sound, rngs=nnx.Rngs(dropout=key))[0] for key in (0, 1)]
    assert (plain == encoder(sound)[0]).all()
    assert (masked[0] != plain).any()
    assert (masked[0] != masked[1]).any()


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="dim=7"):
        SoundPyramid(SoundPyramidConfig(dim=7, **SMALL), rngs=nnx.Rngs(0))
    assert jax.tree.leaves(nnx.state(SoundConv(SoundConvConfig(dim=7), rngs=nnx.Rngs(0))))
