"""Average precision equals pycocotools' on recorded scenes, and numbers computed by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from attnzoo.tasks.average_precision import Found, Truth, average_precision

# coco_numbers.py wrote it, with pycocotools 2.0.11.
RECORDED = json.loads(Path(__file__).with_name("coco_numbers.json").read_text())
NAMES = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()


def column(things: list[dict], name: str, dtype: type, *shape: int) -> np.ndarray:
    return np.asarray([thing[name] for thing in things], dtype).reshape(-1, *shape)


def of_scenes(scenes: list[dict]) -> tuple[list[Found], list[Truth]]:
    found, truths = [], []
    for one in scenes:
        parts = ("box", float, 4), ("label", int), ("score", float)
        found.append(Found(*(column(one["found"], *part) for part in parts)))
        parts = ("box", float, 4), ("label", int), ("ignored", bool), ("area", float)
        truths.append(Truth(*(column(one["objects"], *part) for part in parts)))
    return found, truths


@pytest.mark.parametrize("case", RECORDED["cases"])
def test_it_is_that_of_pycocotools(case: dict) -> None:
    scores = average_precision(*of_scenes(case["scenes"]), 3)
    np.testing.assert_allclose(scores.recall, case["recall"], rtol=1e-9)
    np.testing.assert_allclose(scores.precision.mean(axis=1), case["precision"], rtol=1e-9)
    summary = scores.summary()
    assert list(summary) == ["AP", "APs", "APm", "APl", *NAMES[1:3], *NAMES[6:]]
    np.testing.assert_allclose([summary[name] for name in NAMES], case["summary"], rtol=1e-9)


def test_the_recorded_scenes_have_what_is_hard() -> None:
    objects = [thing for c in RECORDED["cases"] for s in c["scenes"] for thing in s["objects"]]
    assert sum(thing["ignored"] for thing in objects) > 10
    numbers = [len(s["found"]) for c in RECORDED["cases"] for s in c["scenes"]]
    assert max(numbers) > 100
    assert any(-1 in np.ravel(case["precision"]) for case in RECORDED["cases"])


def test_two_objects_of_which_one_is_found_after_a_wrong_one() -> None:
    boxes = np.asarray([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    truth = Truth(boxes, np.asarray([0, 0]), np.asarray([False, False]), np.full(2, 100.0))
    wrong = np.asarray([[50.0, 50, 60, 60], [0, 0, 10, 8]])
    found = Found(wrong, np.asarray([0, 0]), np.asarray([0.9, 0.8]))
    scores = average_precision([found], [truth], 2)
    # Precision 1/2 up to recall 1/2: 51 of 101 recalls. The overlap is .8.
    assert scores.summary()["AP50"] == pytest.approx(0.5 * 51 / 101)
    assert scores.summary()["AP"] == pytest.approx(0.5 * 51 / 101 * 7 / 10)
    assert scores.voc[0] == pytest.approx(0.25)
    assert math.isnan(scores.of_class(1)[0])
