"""Planted patches: where they are, what decides the class, and that nothing else does."""

import numpy as np
import pytest

from attnzoo.config.images import ImagesConfig, PlantedConfig
from attnzoo.data.images import load_images
from attnzoo.data.planted import MOST_CLASSES, mark, planted_pairs, planted_patches

CONFIG = PlantedConfig(side=3, patch=4, classes=3, decoys=4, train=40, validation=7, test=5, seed=2)


def test_the_planted_patch_is_the_only_inverted_mark() -> None:
    splits = load_images(ImagesConfig(source=CONFIG))
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [40, 7, 5]
    assert splits.train.images.shape == (40, 12, 12, 1)
    for part, data in (("train", splits.train), ("test", splits.test)):
        grey = data.images[..., 0].astype(float) - 128
        patches = grey.reshape(-1, 3, 4, 3, 4).transpose(0, 1, 3, 2, 4).reshape(len(data), 9, 16)
        marks = np.stack([mark(c, 4).ravel() for c in range(3)])
        # About 60 at a decoy of the class, -60 at the planted patch, 0 elsewhere.
        seen = patches @ marks.T / 16
        planted = planted_patches(CONFIG, part)
        assert (seen < -30).sum() == len(data)
        found = np.argwhere(seen < -30)
        assert found[:, 1].tolist() == planted.tolist()
        assert [data.names[c] for c in found[:, 2]] == [data.names[c] for c in data.labels]
        assert ((seen > 30).sum(axis=(1, 2)) == 4).all()
    assert set(planted_patches(CONFIG, "train")) == set(range(9))


def test_it_is_a_function_of_the_seed() -> None:
    first, again = (load_images(ImagesConfig(source=CONFIG)) for _ in range(2))
    assert first.fingerprint() == again.fingerprint()
    other = PlantedConfig(side=3, classes=3, decoys=4, train=40, validation=7, test=5, seed=3)
    assert load_images(ImagesConfig(source=other)).fingerprint() != first.fingerprint()


def test_marks_are_alike_in_all_but_the_pattern() -> None:
    marks = np.stack([mark(c, 8).ravel() for c in range(MOST_CLASSES)])
    assert (marks @ marks.T == 64 * np.eye(MOST_CLASSES)).all()
    assert (marks.sum(axis=1) == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    for settings, message in (
        ({"patch": 6}, "patch=6 is not divisible by 4"),
        ({"classes": 9}, "classes=9"),
        ({"side": 2, "decoys": 4}, "do not fit into 4 patches"),
    ):
        with pytest.raises(ValueError, match=message):
            PlantedConfig(**settings)


def test_a_pair_has_two_inverted_marks_of_different_classes() -> None:
    pairs = planted_pairs(CONFIG, 60)
    grey = pairs.images[..., 0].astype(float) - 128
    patches = grey.reshape(-1, 3, 4, 3, 4).transpose(0, 1, 3, 2, 4).reshape(60, 9, 16)
    seen = patches @ np.stack([mark(c, 4).ravel() for c in range(3)]).T / 16
    found = sorted(map(tuple, np.argwhere(seen < -30)))
    told = [(i, pairs.patches[i, o], pairs.classes[i, o]) for i in range(60) for o in (0, 1)]
    assert found == sorted(told)
    assert (pairs.classes[:, 0] != pairs.classes[:, 1]).all()
    assert {tuple(c) for c in pairs.classes} == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }
    assert ((seen > 30).sum(axis=(1, 2)) == 4).all()
    with pytest.raises(ValueError, match="classes=1; a pair wants two"):
        planted_pairs(PlantedConfig(side=3, classes=1, decoys=4), 2)
    with pytest.raises(ValueError, match="decoys=8 and two planted patches do not fit into 9"):
        planted_pairs(PlantedConfig(side=3, decoys=8), 2)
