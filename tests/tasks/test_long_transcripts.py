"""Sounds of several windows: cuts by time tokens by hand, their rules, and frames in blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo.decoding import TokenIds
from attnzoo.decoding.rules import Rules, TimeTokens
from attnzoo.ops.spectrogram import log_mel, long_log_mel
from attnzoo.tasks.long_transcripts import Segment, segments_of, transcribed

TIME, END = 10, 4  # of 0 s; of an output


def t(number: int) -> int:
    return TIME + number


@pytest.mark.parametrize(
    ("tokens", "segments", "further"),
    [
        # Two whole segments, and a third one that the window has cut off.
        ([t(0), 1, t(3), t(3), 2, 3, t(5), t(6), 1], [(0, 3, (1,)), (3, 5, (2, 3))], 5),
        # A single time at the end: nothing is said after it.
        ([t(1), 1, t(3), t(3), 2, t(4)], [(1, 3, (1,)), (3, 4, (2,))], 8),
        ([t(2), 1, 2, t(6)], [(0, 6, (1, 2))], 8),
        ([t(0), 1, 2], [(0, 8, (1, 2))], 8),
        ([], [(0, 8, ())], 8),
    ],
)
def test_cuts_by_hand(tokens: list[int], segments: list, further: float) -> None:
    found, moved = segments_of(tokens, TIME, 0.5, 4.0)
    assert found == [Segment(a / 2, b / 2, ids) for a, b, ids in segments]
    assert moved == further / 2


def test_windows_follow_the_cuts() -> None:
    """Of 9 frames in windows of 4; half a second a frame, and a time token for each frame."""
    said = iter([[t(0), 1, t(2), t(2), 2], [t(1), 3, t(3)], [t(0), t(0)], [t(0), 1, t(2), t(2)]])
    heard = []

    def listen(frames: np.ndarray) -> list[int]:
        heard.append(frames[:, 0].tolist())
        return next(said)

    frames = np.arange(13.0, dtype=np.float32)[:, None]
    found = transcribed(frames, 9, 4, 0.5, 0.5, TIME, listen)
    assert [at[0] for at in heard] == [0, 2, 6]
    assert heard[2] == [6, 7, 8, 9]
    assert found == [Segment(0.0, 1.0, (1,)), Segment(1.0, 2.5, (3,))]


def allowed(said: list[int], logits: np.ndarray, latest: int) -> np.ndarray:
    """The rules of Whisper's paper and code, one output at a time."""
    V = len(logits)
    ok = np.arange(V) != TIME - 1
    times = [token for token in said if token >= TIME]
    if not said:
        ok &= (np.arange(V) >= TIME) & (np.arange(V) <= TIME + latest)
    elif said[-1] >= TIME:
        if len(said) < 2 or said[-2] >= TIME:
            ok[TIME:] = False
        else:
            ok[:END] = False
            ok[TIME : said[-1]] = False
    if times and not (said[-1] >= TIME and len(said) > 1 and said[-2] < TIME):
        ok[TIME : times[-1] + 1] = False
    p = np.where(ok, np.exp(logits), 0)
    if p[TIME:].sum() > p[:TIME].max():
        ok[:TIME] = False
    return ok


def test_rules_of_time_tokens() -> None:
    rules, V, L = Rules(times=TimeTokens(TIME, 2)), 17, 6
    ids = TokenIds(5, 3, END, never=())
    apply = jax.jit(functools.partial(rules.apply, max_length=L, ids=ids))
    random = np.random.default_rng(0)
    outputs = [[], [t(1)], [t(1), 2], [t(1), 2, t(3)], [t(1), 2, t(3), t(3)], [t(0), 1, 2, 3, t(5)]]
    seen = set()
    for said in [one for one in outputs for _ in range(6)]:
        logits = random.normal(0, 1.5, V).astype(np.float32)
        history = np.full((1, L + 1), -1, np.int32)
        history[0, : len(said) + 1] = [3, *said]
        found = apply(jnp.asarray(logits)[None], jnp.int32(len(said)), jnp.asarray(history))
        ok = allowed(said, logits, 2)
        np.testing.assert_array_equal(found[0], np.where(ok, logits, -np.inf))
        seen.add((len(said), ok[:TIME].any(), ok[TIME:].any()))
    assert {(2, True, True), (2, False, True), (0, False, True), (1, True, False)} <= seen


def test_frames_in_blocks_are_those_of_the_whole() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 5_321).astype(np.float32)
    sound[2_000:] *= 3  # the loudest frame is in another block than the first
    found = long_log_mel(sound, 16_000, 11, silence=21, highest=8_000.0, block=13)
    whole = np.concatenate([sound, np.zeros(54 * 160 - len(sound), np.float32)])
    wanted = log_mel(jnp.asarray(whole)[None], 16_000, 11, highest=8_000.0).frames[0]
    assert found.shape == (54, 11)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
