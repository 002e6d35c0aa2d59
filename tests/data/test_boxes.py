"""Boxes come from COCO's and VOC's files as they are there, and stay on their objects."""

import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from attnzoo.config.detection import (
    BoxAugmentationConfig,
    BoxesConfig,
    CocoConfig,
    ShapesConfig,
    VocConfig,
)
from attnzoo.data.augment import to_float
from attnzoo.data.box_augment import Boxed, augment_boxes
from attnzoo.data.boxes import BoxPlan, fit_picture, load_boxes, to_pixels, to_shares
from attnzoo.data.corpus import load_corpus
from attnzoo.errors import UserError

# Name, width and height, objects: class and corners.
PICTURES = {
    "a.png": ((40, 20), [("cat", (3, 2, 13, 12)), ("dog", (20, 5, 39, 19))]),
    "b.png": ((21, 34), [("cat", (0, 0, 21, 34))]),
    "c.png": ((30, 30), []),
}
COLOURS = {"cat": (250, 40, 40), "dog": (40, 250, 40)}


def paint(size: tuple[int, int], objects: list[Any]) -> bytes:
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    for label, (left, top, right, bottom) in objects:
        pixels[top:bottom, left:right] = COLOURS[label]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def coco(home: Path, **changes: Any) -> CocoConfig:
    """Three pictures in COCO's format; a change replaces a part of the first annotation."""
    (home / "pictures" / "inner").mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"images": [], "annotations": []}
    data["categories"] = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    for number, (name, (size, objects)) in enumerate(PICTURES.items()):
        (home / "pictures" / "inner" / name).write_bytes(paint(size, objects))
        data["images"].append({"id": number, "file_name": name})
        for label, (left, top, right, bottom) in objects:
            annotation = {"id": len(data["annotations"]) + 1, "image_id": number}
            annotation |= {"category_id": {"cat": 3, "dog": 7}[label], "area": 5.5, "iscrowd": 0}
            annotation |= {"bbox": [left, top, right - left, bottom - top]}
            data["annotations"].append(annotation)
    data["annotations"][0].update(changes)
    (home / "train.json").write_text(json.dumps(data))
    return CocoConfig(images=home / "pictures", train=home / "train.json")


def voc(home: Path, *, tarred: str = "", **changes: str) -> VocConfig:
    """The same in VOC's format, with the third picture to validate on."""
    folders = [home / "VOC" / name for name in ("JPEGImages", "Annotations", "ImageSets/Main")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for number, (name, (size, objects)) in enumerate(PICTURES.items()):
        (folders[0] / name).write_bytes(paint(size, objects))
        lines = []
        for label, (left, top, right, bottom) in objects:
            values = {"name": label, "difficult": "0"}
            values |= {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
            values |= changes if label == "dog" else {}
            edges = "".join(f"<{k}>{values.pop(k)}</{k}>" for k in ("xmin", "ymin", "xmax", "ymax"))
            rest = "".join(f"<{k}>{v}</{k}>" for k, v in values.items())
            lines.append(f"<object>{rest}<bndbox>{edges}</bndbox></object>")
        stem = Path(name).stem
        (folders[1] / f"{stem}.xml").write_text(f"<annotation>{''.join(lines)}</annotation>")
        with (folders[2] / ("val.txt" if number == 2 else "train.txt")).open("a") as file:
            file.write(f"{stem}\n")
    if not tarred:
        return VocConfig(path=home / "VOC", test=None)
    with tarfile.open(home / tarred, f"w:{tarred.rpartition('.')[2].removeprefix('tar')}") as tar:
        tar.add(home / "VOC", "VOC")
    shutil.rmtree(home / "VOC")
    return VocConfig(path=home / tarred, test=None)


def settings(source: Any, **more: Any) -> BoxesConfig:
    return BoxesConfig(source=source, size=(32, 48), **more)


@pytest.mark.parametrize("kind", ["coco", "voc", "voc.tar", "voc.tar.gz"])
@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_boxes_are_where_the_objects_are(tmp_path: Path, kind: str, fit: str) -> None:
    tarred = kind if "." in kind else ""
    source = coco(tmp_path) if kind == "coco" else voc(tmp_path, tarred=tarred)
    splits = load_corpus(settings(source, fit=fit))
    train = splits.train
    assert train.names == ("cat", "dog")
    names = sorted(PICTURES) if kind == "coco" else ["a.png", "b.png"]
    assert [Path(name).name for name in train.pictures] == names
    assert len(splits.validation) == (kind != "coco")
    wanted = [corners for _, objects in PICTURES.values() for _, corners in objects]
    np.testing.assert_array_equal(train.boxes, wanted)
    np.testing.assert_array_equal(train.labels, [0, 1, 0])
    if kind == "coco":
        np.testing.assert_array_equal(train.areas, [5.5, 5.5, 5.5])
    batch = BoxPlan(train, 2, train.most(), shuffle=False).batch(0)
    assert_covered(batch["images"], batch["boxes"], batch["labels"])
    back = to_pixels(batch["boxes"][0], train.sizes[0], train.extents[0])
    np.testing.assert_allclose(back, wanted[:2], atol=1e-4)
    np.testing.assert_allclose(
        to_shares(back, train.sizes[0], train.extents[0]), batch["boxes"][0], atol=1e-6
    )


def assert_covered(images: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> None:
    """Every box has the colour of its class inside, to a pixel, and nowhere around it."""
    H, W = images.shape[1:3]
    for image, corners, classes in zip(images, boxes, labels, strict=True):
        assert (classes >= 0).any()
        for number, name in enumerate(("cat", "dog")):
            near = np.abs(image.astype(int) - COLOURS[name]).sum(axis=2) < 120
            drawn = np.zeros((H, W), bool)
            for left, top, right, bottom in corners[classes == number] * [W, H, W, H]:
                drawn[
                    int(top + 0.49) : int(bottom + 0.51), int(left + 0.49) : int(right + 0.51)
                ] = 1
            wide = np.zeros((H + 2, W + 2), bool)
            for y, x in np.ndindex(3, 3):
                wide[y : y + H, x : x + W] |= drawn
            assert not (near & ~wide[1:-1, 1:-1]).any(), name
            inner = ~wide_of(np.pad(~drawn, 1, constant_values=True))[1:-1, 1:-1]
            assert near[inner].all(), name
            assert drawn.sum() == 0 or inner.sum() > 0


def wide_of(drawn: np.ndarray) -> np.ndarray:
    """Grow a region by two pixels in every direction."""
    H, W = drawn.shape
    grown = np.zeros((H + 4, W + 4), bool)
    for y, x in np.ndindex(5, 5):
        grown[y : y + H, x : x + W] |= drawn
    return grown[2:-2, 2:-2]


AUGMENTATIONS = {
    "flip": BoxAugmentationConfig(flip=True),
    "flip_vertical": BoxAugmentationConfig(flip_vertical=True),
    "crop": BoxAugmentationConfig(crop_scale=0.3),
    "jitter": BoxAugmentationConfig(jitter=0.2),
    "all": BoxAugmentationConfig(flip=True, flip_vertical=True, crop_scale=0.5, jitter=0.03),
}


def test_every_augmentation_is_here() -> None:
    names = {field.name for field in dataclasses.fields(BoxAugmentationConfig)}
    used = {n for c in AUGMENTATIONS.values() for n in names
            if getattr(c, n) != getattr(BoxAugmentationConfig(), n)}  # fmt: skip
    assert used == names


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_boxes_stay_on_their_objects(tmp_path: Path, name: str, fit: str) -> None:
    train = load_boxes(settings(coco(tmp_path), fit=fit)).train
    batch = BoxPlan(train, 3, train.most(), shuffle=False).batch(0)
    images, boxes, labels = (np.repeat(batch[n][:2], 8, 0) for n in ("images", "boxes", "labels"))
    extent = np.repeat(batch["extent"][:2], 8, 0)
    given = Boxed(to_float(jnp.asarray(images)), jnp.asarray(boxes), jnp.asarray(labels >= 0))
    found = augment_boxes(AUGMENTATIONS[name], jax.random.key(3), given, jnp.asarray(extent))
    moved = np.asarray(jnp.round(found.images * 255)).astype(np.uint8)
    kept = np.asarray(found.kept)
    assert (np.abs(moved.astype(int) - images).max(axis=(1, 2, 3)) > 0).sum() >= 4
    # Pictures of which an object is gone but for a corner still show that corner.
    whole = [i for i in range(16) if (kept[i] == (labels[i] >= 0)).all()]
    assert len(whole) >= 8
    shown = np.where(kept, labels, -1)
    assert_covered(moved[whole], np.asarray(found.boxes)[whole], shown[whole])
    inside = np.abs(np.asarray(found.boxes) * 2 - 1).max(axis=2)[kept]
    assert (inside <= np.repeat(extent.max(axis=1)[:, None], 2, 1)[kept] + 1e-6).all()


@pytest.mark.parametrize("size", [(20, 40), (21, 34), (3, 90), (90, 3), (32, 48)])
def test_margins_are_equal_so_that_a_mirrored_picture_is_in_its_place(size: Any) -> None:
    pixels, extent = fit_picture(Image.new("RGB", size[::-1], "white"), (32, 48), "letterbox")
    filled = pixels.any(axis=2)
    np.testing.assert_array_equal(filled, filled[::-1, ::-1])
    assert filled.sum() == round(extent[0] * 32) * round(extent[1] * 48)
    ratio = extent[0] * 32 / (extent[1] * 48)
    assert min(extent) < 0.2 or ratio == pytest.approx(size[0] / size[1], rel=0.1)


BROKEN = {
    "outside": ({"bbox": [41, 2, 5, 5]}, "a box outside of its picture"),
    "no area": ({"bbox": [3, 2, 0, 5]}, "a box without area"),
    "negative": ({"bbox": [3, 2, 5, -5]}, "a box without area"),
    "three numbers": ({"bbox": [3, 2, 5]}, "a box that is not four numbers"),
    "words": ({"bbox": ["x", 2, 5, 1]}, "a box that is not four numbers"),
    "class": ({"category_id": 99}, "class '99' is none of cat, dog"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_box_is_counted_and_named(tmp_path: Path, name: str) -> None:
    changes, reason = BROKEN[name]
    source = coco(tmp_path, **changes)
    splits = load_boxes(settings(source, max_skipped=0.5))
    lines = [line for report in splits.reports for line in report.lines()]
    assert f"{tmp_path}/pictures train: 2 of 3 boxes" in lines
    assert any(f"skipped 1: {reason} (train.json: annotation 1)" in line for line in lines)
    assert len(splits.train.boxes) == 2
    with pytest.raises(UserError, match=r"1 of 3 boxes cannot be used.*max_skipped=0.01"):
        load_boxes(settings(source))


def test_a_box_that_is_partly_outside_is_cut(tmp_path: Path) -> None:
    splits = load_boxes(settings(coco(tmp_path, bbox=[-5, 10, 20, 100])))
    np.testing.assert_array_equal(splits.train.boxes[0], [0, 10, 15, 20])


@pytest.mark.parametrize("content", [None, b"no picture", b""])
def test_a_picture_that_cannot_be_read_is_counted_and_named(tmp_path: Path, content: Any) -> None:
    source = coco(tmp_path)
    path = tmp_path / "pictures" / "inner" / "b.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    splits = load_boxes(settings(source, max_skipped=0.5))
    (lines,) = (r.lines() for r in splits.reports if r.unit == "pictures")
    assert lines[0].endswith("2 of 3 pictures")
    assert "b.png" in lines[1]
    assert [Path(name).name for name in splits.train.pictures] == ["a.png", "c.png"]
    np.testing.assert_array_equal(splits.train.starts, [0, 2, 2])


def test_crowds_and_difficult_objects_are_ignored(tmp_path: Path) -> None:
    assert load_boxes(settings(coco(tmp_path, iscrowd=1))).train.ignored.tolist() == [1, 0, 0]
    made = load_boxes(settings(voc(tmp_path, difficult="1"))).train
    assert made.ignored.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda home, s: dataclasses.replace(s, images=home / "none"), "none: no such folder"),
        (lambda home, s: dataclasses.replace(s, train=None), "no JSON file is given"),
        (lambda home, s: (home / "train.json").write_text("{") and s, "not JSON"),
        (lambda home, s: (home / "train.json").write_text('{"images": []}') and s,
         "not in COCO's format: no 'categories'"),
        (lambda home, s: dataclasses.replace(s, images=home / "train.json"), "not a tar file"),
        (lambda home, s: VocConfig(path=home / "pictures"), "no Annotations"),
    ],
)  # fmt: skip
def test_files_that_are_no_such_data(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_boxes(settings(change(tmp_path, coco(tmp_path))))


def test_a_list_that_is_not_there_and_xml_that_is_none(tmp_path: Path) -> None:
    source = voc(tmp_path)
    with pytest.raises(UserError, match=r"no list 'x' in ImageSets/Main; there is train, val"):
        load_boxes(settings(dataclasses.replace(source, train="x")))
    (tmp_path / "VOC" / "Annotations" / "b.xml").write_text("<annotation>\n<object>")
    with pytest.raises(UserError, match=r"Annotations/b.xml:2: not XML"):
        load_boxes(settings(source))


def test_only_one_part_of_a_run_with_its_classes(tmp_path: Path) -> None:
    splits = load_boxes(settings(voc(tmp_path), max_skipped=1.0), names=("dog",), part="train")
    assert splits.train.labels.tolist() == [0]
    assert len(splits.validation) == 0


def test_shapes_are_the_same_each_time_and_inside_their_boxes() -> None:
    config = settings(ShapesConfig(train=30, validation=2, test=0))
    one, other = load_boxes(config), load_boxes(config)
    assert one.fingerprint() == other.fingerprint()
    assert set(one.train.labels.tolist()) == {0, 1, 2}
    for row in range(30):
        pixels = one.train.pixels(row)
        np.testing.assert_array_equal(pixels, other.train.pixels(row))
        bright = pixels.max(axis=2) >= 140
        left = bright.copy()
        for a, b, c, d in one.train.boxes[one.train.of(row)].astype(int):
            part = bright[b:d, a:c]
            assert all(edge.any() for edge in (part[0], part[-1], part[:, 0], part[:, -1]))
            left[b:d, a:c] = False
        assert not left.any()


def test_blood_cells(shared: Path) -> None:
    path = shared / "data" / "bccd" / "bccd.tar"
    splits = load_boxes(settings(VocConfig(path=path), limit=2))
    assert splits.train.names == ("Platelets", "RBC", "WBC")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2, 87, 72]
    assert len(splits.test.boxes) == 945
