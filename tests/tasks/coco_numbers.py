"""Write coco_numbers.json: random scenes, and what pycocotools says of them.

In an environment of its own: `pip install pycocotools numpy`, `python tests/tasks/coco_numbers.py`.
"""

import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES, SIDE = 3, 400


def scene(random: np.random.Generator, most: int, spread: float) -> dict:
    """Objects and detections of one picture: near, double, of another class, out of nowhere."""
    objects, found = [], []
    for _ in range(random.integers(0, most)):
        width, height = np.exp(random.uniform(np.log(8), np.log(200), 2))
        x, y = random.uniform(0, SIDE - width), random.uniform(0, SIDE - height)
        box, label = np.round([x, y, x + width, y + height], 1), int(random.integers(CLASSES - 1))
        area = round(float((box[2] - box[0]) * (box[3] - box[1]) * random.uniform(0.5, 1)), 1)
        crowd = bool(random.random() < 0.15)
        objects.append({"box": box.tolist(), "label": label, "ignored": crowd, "area": area})
        for _ in range(random.integers(0, 4)):
            near = np.round(box + random.normal(0, spread, 4) * np.tile([width, height], 2), 1)
            other = int(random.integers(CLASSES)) if random.random() < 0.15 else label
            near[2:] = np.maximum(near[2:], near[:2] + 1)
            # Few values, so that many scores are equal.
            found.append({"box": near.tolist(), "label": other, "score": round(random.random(), 1)})
    for _ in range(random.integers(0, 5)):
        x, y, width, height = np.round(random.uniform(5, SIDE / 2, 4), 1).tolist()
        label = int(random.integers(CLASSES))
        score = round(random.random(), 2)
        found.append({"box": [x, y, x + width, y + height], "label": label, "score": score})
    return {"objects": objects, "found": found}


def numbers(scenes: list[dict]) -> dict:
    """Return the twelve numbers of pycocotools, and means of precision and recall."""

    def sides(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    annotations, results = [], []
    for number, one in enumerate(scenes, start=1):
        for thing in one["objects"]:
            own = {"id": len(annotations) + 1, "image_id": number, "bbox": sides(thing["box"])}
            own |= {"category_id": thing["label"] + 1, "area": thing["area"]}
            annotations.append(own | {"iscrowd": int(thing["ignored"])})
        for thing in one["found"]:
            own = {"image_id": number, "bbox": sides(thing["box"]), "score": thing["score"]}
            results.append(own | {"category_id": thing["label"] + 1})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": n + 1} for n in range(len(scenes))],
            "categories": [{"id": n + 1} for n in range(CLASSES)],
            "annotations": annotations,
        }
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(results), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return {
        "summary": scored.stats.tolist(),
        "precision": scored.eval["precision"].mean(axis=1).tolist(),
        "recall": scored.eval["recall"].tolist(),
    }


def main() -> None:
    """Write the file beside this one."""
    cases = []
    for seed, (pictures, most, spread) in enumerate([(7, 9, 0.08), (3, 40, 0.04), (2, 70, 0.15)]):
        random = np.random.default_rng(seed)
        scenes = [scene(random, most, spread) for _ in range(pictures)]
        cases.append({"scenes": scenes, **numbers(scenes)})
    made = {"pycocotools": version("pycocotools"), "cases": cases}
    Path(__file__).with_suffix(".json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
