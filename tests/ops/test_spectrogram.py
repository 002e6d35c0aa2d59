"""Log-mel spectrograms against Whisper's numbers, and the masks of SpecAugment."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.ops.spectrogram import Spectrogram, log_mel, mel_filters, spec_augment
from spectrogram_fixture import RATE, SECONDS, sound

WHISPER = json.loads((Path(__file__).parent / "whisper_log_mel.json").read_text())


def padded(*sounds: np.ndarray) -> jax.Array:
    rows = np.full((len(sounds), max(map(len, sounds)) + 53), np.nan, np.float32)
    for row, one in zip(rows, sounds):
        row[: len(one)] = one
    return jnp.asarray(rows)


@pytest.mark.parametrize("mels", [80, 128])
def test_equals_whisper(mels):
    """Frames of a padded sound are those of ``WhisperFeatureExtractor``, to 1e-5."""
    found = log_mel(padded(sound(), sound()[:3001]), RATE, mels)
    assert found.valid.sum(axis=1).tolist() == [round(100 * SECONDS), 18]
    wanted = np.asarray(WHISPER[str(mels)])
    np.testing.assert_allclose(found.frames[0, : round(100 * SECONDS)][::7], wanted, atol=1e-5)


def test_padding_changes_nothing():
    """A sound alone has the frames that it has in a batch, also one shorter than a window."""
    whole, short = sound()[:4000:2], sound()[:90]
    together = log_mel(padded(whole, short), 8000, 40)
    for row, one in enumerate((whole, short)):
        alone = log_mel(jnp.asarray(one)[None], 8000, 40)
        count = len(one) // 80
        assert alone.frames.shape == (1, count, 40)
        np.testing.assert_allclose(together.frames[row, :count], alone.frames[0], atol=2e-6)
        assert not together.frames[row, count:].any()


def test_a_tone_is_in_its_filter():
    """The largest of 40 mels of a tone is the one whose filter is highest at its frequency."""
    for hertz in (200, 1000, 3000):
        tone = np.sin(2 * np.pi * hertz * np.arange(4000) / 8000).astype(np.float32)
        frames = log_mel(jnp.asarray(tone)[None], 8000, 40).frames[0]
        wanted = mel_filters(8000, 40)[round(hertz / 4000 * 100)].argmax()
        assert int(frames[20].argmax()) == wanted


def test_too_many_filters_are_refused():
    with pytest.raises(ValueError, match="mels=200"):
        mel_filters(8000, 200)


def test_masks_hide_bands_within_the_sound():
    """Each mask is a band of at most its width; padding and the mean stay as they are."""
    frames = jax.random.normal(jax.random.key(0), (64, 31, 13))
    valid = jnp.arange(31)[None] < jnp.where(jnp.arange(64) < 32, 31, 7)[:, None]
    frames = jnp.where(valid[:, :, None], frames, 0.0)
    settings = {"frequency_width": 3, "time_width": 5}
    for masks, axis, width in (((1, 0), 1, 3), ((0, 1), 2, 5)):
        found = spec_augment(
            Spectrogram(frames, valid),
            jax.random.key(1),
            frequency_masks=masks[0],
            time_masks=masks[1],
            **settings,
        )
        changed = np.asarray(found != frames)
        assert not changed[~np.asarray(valid)].any()
        bands = changed.any(axis=axis)
        assert set(bands.sum(axis=1)) == set(range(width + 1))
        for row in bands:
            edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
            assert len(edges) in (0, 2)
        places = np.flatnonzero(bands[:32].any(axis=0))
        assert len(places) >= bands.shape[1] - 4
        row = int(changed[:32].any(axis=(1, 2)).argmax())
        np.testing.assert_allclose(found[row][changed[row]], frames[row].mean(), atol=1e-5)
