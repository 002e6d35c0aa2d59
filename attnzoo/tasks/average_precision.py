"""Average precision of detections as COCO and Pascal VOC define it.

COCO: the protocol of its evaluation code, https://cocodataset.org/#detection-eval. Boxes are
corners in pixels.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps (intersection over union) from which on a detection is right."""
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2),
         "large": (96.0**2, 1e10)}  # fmt: skip
"""Least and largest area of objects, in square pixels."""
COUNTS = (1, 10, 100)
"""Most detections of a class in a picture that are scored."""


class Found(NamedTuple):
    """Detections in one picture."""

    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]


class Truth(NamedTuple):
    """Objects in one picture; ``ignored`` ones, such as crowds, are neither found nor missed."""

    boxes: Float[np.ndarray, "m 4"]
    labels: Int[np.ndarray, " m"]
    ignored: Bool[np.ndarray, " m"]
    areas: Float[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Precision and recall by overlap, class, range of areas and number of detections.

    -1 where there is no object.
    """

    precision: Float[np.ndarray, "10 101 classes 4 3"]
    recall: Float[np.ndarray, "10 classes 4 3"]
    voc: Float[np.ndarray, " classes"]
    """Area under the curve of precision at an overlap of 1/2 (VOC since 2010)."""

    def summary(self) -> dict[str, float]:
        """Return COCO's twelve numbers by the names AP, AP50, AP75, APs, ..., AR1, ...; NaN: none.

        AP is the mean over overlaps of .5 to .95 and over classes.
        """
        areas = [("", 0), ("s", 1), ("m", 2), ("l", 3)]
        values = {f"AP{name}": _mean(self.precision[:, :, :, a, 2]) for name, a in areas}
        for name, row in (("AP50", 0), ("AP75", 5)):
            values[name] = _mean(self.precision[row, :, :, 0, 2])
        values |= {f"AR{n}": _mean(self.recall[:, :, 0, i]) for i, n in enumerate(COUNTS)}
        return values | {f"AR{name}": _mean(self.recall[:, :, a, 2]) for name, a in areas[1:]}

    def of_class(self, number: int) -> tuple[float, float]:
        """Return AP and AP50 of one class; NaN: it has no object."""
        precision = self.precision[:, :, number, 0, 2]
        return _mean(precision), _mean(precision[0])


def average_precision(found: Sequence[Found], truths: Sequence[Truth], num_classes: int) -> Scores:
    """Score the detections of pictures; the two sequences have the same order."""
    T, R, A, C = len(THRESHOLDS), len(RECALLS), len(AREAS), len(COUNTS)
    precision = -np.ones((T, R, num_classes, A, C))
    recall = -np.ones((T, num_classes, A, C))
    voc = -np.ones(num_classes)
    for label in range(num_classes):
        pairs = [_of_class(one, truth, label) for one, truth in zip(found, truths, strict=True)]
        overlaps = [_overlaps(one.boxes, truth) for one, truth in pairs]
        for a, area in enumerate(AREAS.values()):
            seen = [
                _matched(one, truth, overlap, area)
                for (one, truth), overlap in zip(pairs, overlaps, strict=True)
            ]
            objects = sum(one.objects for one in seen)
            if not objects:
                continue
            for c, count in enumerate(COUNTS):
                right, wrong = _ranked(seen, count)
                curve = right / np.maximum(right + wrong, np.spacing(1))
                envelope = np.maximum.accumulate(curve[:, ::-1], axis=1)[:, ::-1]
                for t in range(T):
                    reached = right[t] / objects
                    recall[t, label, a, c] = reached[-1] if reached.size else 0
                    places = np.searchsorted(reached, RECALLS)
                    held = np.append(envelope[t], 0.0)
                    precision[t, :, label, a, c] = held[np.minimum(places, reached.size)]
                if a == 0 and c == C - 1:
                    steps = np.diff(right[0] / objects, prepend=0.0)
                    voc[label] = float(np.sum(steps * envelope[0]))
    return Scores(precision, recall, voc)


class _Seen(NamedTuple):
    """Detections of one class in one picture, best first, matched at each of T overlaps."""

    scores: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, "T n"]
    ignored: Bool[np.ndarray, "T n"]
    objects: int


def _of_class(found: Found, truth: Truth, label: int) -> tuple[Found, Truth]:
    """Return the detections of a class, best first, as many as are scored, and its objects."""
    rows = np.flatnonzero(found.labels == label)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")][: COUNTS[-1]]
    own = truth.labels == label
    return Found(*(part[rows] for part in found)), Truth(*(part[own] for part in truth))


def _overlaps(boxes: Float[np.ndarray, "n 4"], truth: Truth) -> Float[np.ndarray, "n m"]:
    """Return intersection over union; with a crowd, over the area of the detection."""
    first = np.maximum(boxes[:, None, :2], truth.boxes[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], truth.boxes[None, :, 2:])
    common = np.prod(np.maximum(last - first, 0), axis=2)
    own, other = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, truth.boxes))
    whole = np.where(truth.ignored[None], own[:, None], own[:, None] + other[None] - common)
    return common / np.maximum(whole, np.spacing(1))


def _matched(
    found: Found, truth: Truth, overlaps: Float[np.ndarray, "n m"], area: tuple[float, float]
) -> _Seen:
    """Match detections in the order of their scores, each to the free object it overlaps most.

    Objects of other areas are ignored, and so are detections matched to one, and detections of
    other areas that match nothing. An object that counts goes before one that is ignored; a crowd
    may be matched many times.
    """
    T, n, m = len(THRESHOLDS), len(found.scores), len(truth.labels)
    outside = truth.ignored | (truth.areas < area[0]) | (truth.areas > area[1])
    right, ignored = np.zeros((T, n), bool), np.zeros((T, n), bool)
    taken = np.zeros((T, m), bool)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    rows = np.arange(T)
    for d in range(n if m else 0):
        free = (overlaps[d][None] >= least) & (~taken | truth.ignored[None])
        counts = free & ~outside[None]
        free = np.where(counts.any(axis=1, keepdims=True), counts, free)
        # Of equal overlaps the last one, as in COCO's code.
        best = m - 1 - np.argmax(np.where(free, overlaps[d][None], -1.0)[:, ::-1], axis=1)
        any_free = free.any(axis=1)
        taken[rows[any_free], best[any_free]] = True
        right[:, d], ignored[:, d] = any_free, any_free & outside[best]
    size = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    ignored |= ~right & ((size < area[0]) | (size > area[1]))[None]
    return _Seen(found.scores, right, ignored, int((~outside).sum()))


def _ranked(
    seen: Sequence[_Seen], count: int
) -> tuple[Float[np.ndarray, "T n"], Float[np.ndarray, "T n"]]:
    """Return the numbers of right and wrong detections among the best 1, 2, ... of all pictures."""
    scores = np.concatenate([one.scores[:count] for one in seen])
    order = np.argsort(-scores, kind="stable")
    right, ignored = (
        np.concatenate([part[:, :count] for part in parts], axis=1)[:, order]
        for parts in ([one.right for one in seen], [one.ignored for one in seen])
    )
    hits, misses = (np.cumsum(one & ~ignored, axis=1, dtype=np.float64) for one in (right, ~right))
    return hits, misses


def _mean(values: Float[np.ndarray, "..."]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
