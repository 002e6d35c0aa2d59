"""Pictures as a preprocessor_config.json prepares them, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnzoo.data.picture_preparation import FILE, PROCESSOR, PicturePreparation
from attnzoo.errors import UserError


def read(folder: Path, **values: Any) -> PicturePreparation:
    (folder / FILE).write_text(json.dumps(values))
    return PicturePreparation.read(folder, 4, 1)


def test_settings_of_a_processor_go_before_those_of_its_own_file(tmp_path: Path) -> None:
    (tmp_path / PROCESSOR).write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert read(tmp_path, size=4, image_mean=0.25).mean[0] == 0.25
    nested = {"image_processor": {"size": {"shortest_edge": 4}, "image_mean": [0.75]}}
    (tmp_path / PROCESSOR).write_text(json.dumps(nested))
    one = PicturePreparation.read(tmp_path, 4, 1)
    assert (one.size, one.mean[0]) == (4, 0.75)
    for wrong, said in (({"size": 5}, "image_processor: pictures of"), (7, "image_processor=7;")):
        (tmp_path / PROCESSOR).write_text(json.dumps({"image_processor": wrong}))
        with pytest.raises(UserError, match=f"^{tmp_path / PROCESSOR}: {said}"):
            PicturePreparation.read(tmp_path, 4, 1)


def test_the_centre_of_the_shorter_side(tmp_path: Path) -> None:
    """Columns 0 .. 15 of an 8 x 16 picture: halved to 4 x 8 by the nearest, then 2 are cut off."""
    one = read(tmp_path, size={"shortest_edge": 4}, crop_size=4, do_center_crop=True, resample=0)
    picture = Image.fromarray(np.tile(np.arange(16, dtype=np.uint8), (8, 1)))
    np.testing.assert_array_equal(one.pixels(picture)[..., 0], [[5, 7, 9, 11]] * 4)


@pytest.mark.parametrize("values", [None, {}, {"image_mean": 0.5}])
def test_without_a_size_any_picture_has_the_size_of_the_model(
    values: dict[str, Any] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if values is not None:
        (tmp_path / FILE).write_text(json.dumps(values))
    one = PicturePreparation.read(tmp_path, 4, 3)
    assert one.pixels(Image.new("RGB", (31, 9))).shape == (4, 4, 3)
    assert "no size; pictures are resized to 4 x 4" in caplog.text


def test_mean_deviation_and_scale_are_one_step(tmp_path: Path) -> None:
    one = read(tmp_path, size=4, rescale_factor=0.5, image_mean=[3.0], image_std=[2.0])
    pixel = 7.0
    ours = (pixel / 255 - one.mean) / one.deviation
    np.testing.assert_allclose(ours, [(pixel * 0.5 - 3.0) / 2.0], rtol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"size": {"height": 5, "width": 5}},
        {"size": "x"},
        {"image_mean": [1, 2]},
        {"resample": 9},
        {"image_std": [0]},
        {"image_std": 0.0},
        {"image_std": -1.0},
        {"image_mean": [True]},
    ],
)
def test_what_does_not_fit_is_one_line(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=FILE) as error:
        read(tmp_path, **values)
    assert "\n" not in str(error.value)
