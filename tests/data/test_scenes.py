"""Made scenes: captions that say what is in the picture, and the places of their words."""

import numpy as np
import pytest

from attnzoo.config.captioning import COLOURS, ScenesConfig
from attnzoo.config.images import AugmentationConfig
from attnzoo.data.corpus import load_corpus
from attnzoo.data.scenes import RGB

SMALL = ScenesConfig(side=5, cell=8, decoys=2, noise=0.0, train=37, validation=5, test=3)


def test_words_lie_where_the_pixels_have_their_colour() -> None:
    data = load_corpus(SMALL).train
    for image, (caption,), (cells,) in zip(data.images, data.captions, data.cells, strict=True):
        words = caption.split()
        assert cells.shape == (len(words), 25)
        # Side by side, the grid's cells are blocks of the picture.
        blocks = image.reshape(5, 8, 5, 8, 3).transpose(0, 2, 1, 3, 4).reshape(25, 8, 8, 3)
        for word, places in zip(words, cells, strict=True):
            if word in COLOURS:
                same = np.all(blocks == RGB[COLOURS.index(word)], axis=-1)
                assert same[places].any(axis=(1, 2)).all()
            assert places.any() == (word not in ("a", "above", "left", "of"))
        first, second = cells[2], cells[-2]
        assert [first.sum(), second.sum()] == [
            {"small": 1, "large": 4}[words[i]] for i in (1, len(words) - 3)
        ]
        assert not (first & second).any()
        centres = [np.argwhere(x.reshape(5, 5)).mean(0) for x in (first, second)]
        down, right = centres[1] - centres[0]
        assert (down > 0 and down > abs(right)) == ("above" in words)
        assert (right > 0 and right > abs(down)) == ("left" in words)


def test_a_scene_is_a_pure_function_of_the_seed() -> None:
    one, again = load_corpus(SMALL), load_corpus(SMALL)
    other = load_corpus(ScenesConfig(side=5, decoys=2, noise=0.0, train=37, seed=1))
    assert one.fingerprint() == again.fingerprint()
    assert one.train.fingerprint() != other.train.fingerprint()
    assert not {x.tobytes() for x in one.train.images} & {x.tobytes() for x in one.test.images}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="decoys=9, wanted at most 4"):
        ScenesConfig(side=5, decoys=9)
    with pytest.raises(ValueError, match="captions cannot be mixed"):
        ScenesConfig(augmentation=AugmentationConfig(mixup=0.2))
