"""Trainings that start from the folder of CLIP or SigLIP, and what they become for transformers."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_folders
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file

import attnzoo
from attnzoo import cli
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import load
from attnzoo.data.picture_preparation import FILE
from attnzoo.data.pictures import open_picture
from attnzoo.training.loop import train
from attnzoo.training.start import create_task, inherit
from attnzoo.training.zero_shot import zero_shot

TEXTS = ["a cat sat on the mat .", "the dog sat", "a cat", "on the mat sat a dog .", "the mat ."]
TEXTS += ["a dog", "the cat .", "on a mat"]
LABELS = ("a cat", "the dog sat")


def folder_of(kind: str, home: Path) -> Path:
    """A tiny folder with pixel statistics of its own."""
    folder = tiny_folders.tiny_folder(kind, home / kind)
    described = json.loads((folder / FILE).read_text())
    described |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / FILE).write_text(json.dumps(described))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["bos_token_id"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def lines_of(folder: Path, home: Path, *more: str, width: int = 11) -> list[str]:
    """Settings of a training that changes next to nothing, on eight small pictures."""
    (home / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number in range(len(TEXTS)):
        (home / "pictures" / f"class{number % 2}").mkdir(exist_ok=True)
        pixels = random.integers(0, 255, (11, width, 3)).astype(np.uint8)
        name = home / "pictures" / f"class{number % 2}" / f"{number}.png"
        Image.fromarray(pixels).save(name)
    rows = [f"class{n % 2}/{n}.png,{text}" for n, text in enumerate(TEXTS)]
    (home / "captions.csv").write_text("\n".join(["image,caption", *rows]) + "\n")
    return [
        "name=tiny",
        f"start_from={folder}",
        f"directory={home / 'run'}",
        "training={steps: 1, batch_size: 5, learning_rate: 1e-9, max_length: 12, "
        "tensorboard: false}",
        *more,
    ]


def created(config: ExperimentConfig, home: Path) -> Any:
    home.mkdir()
    return create_task(inherit(config)[0], home)


def compare_pixels(task: Any, opened: Any, home: Path) -> None:
    """A file is for predict the pixels that training and validation saw."""
    seen: set[bytes] = set()
    for plan in (task.train, task.validation):
        images = plan.data.images
        seen |= {np.asarray(images[row]).tobytes() for row in range(len(images))}
    files = sorted((home / "pictures").rglob("*.png"))
    pixels = [opened.picture(open_picture(f.read_bytes(), str(f), 3)) for f in files]
    assert {one.tobytes() for one in pixels} == seen
    assert len(seen) == len(TEXTS)


@pytest.mark.parametrize("kind", tiny_folders.TOWERS)
def test_a_training_goes_on_from_a_folder_and_back(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(kind, tmp_path)
    captions = f"[{tmp_path / 'captions.csv'}]"
    more = [
        f"task={{kind: contrastive, loss: {'softmax' if kind == 'clip' else 'sigmoid'}}}",
        f"data={{kind: captions, pictures: {tmp_path / 'pictures'}, train: {captions}, "
        f"validation_share: 0.25, size: 8}}",
        "model={kind: two_towers}",
    ]
    config = load(ExperimentConfig, None, lines_of(folder, tmp_path, *more))
    train(config)
    theirs, ours = (attnzoo.open(one) for one in (folder, tmp_path / "run"))
    assert ours.model.config == theirs.model.config
    compare_pixels(created(config, tmp_path / "pixels"), zero_shot(ours, LABELS), tmp_path)
    assert ours.task.encode(TEXTS) == theirs.task.encode(TEXTS)
    batch = created(config, tmp_path / "other").validation.batch(0)
    pad = theirs.model.config.text.pad_id
    wanted = theirs.task.encode(TEXTS)
    for row in batch["target"][batch["rows"] >= 0].tolist():
        assert any(row == [*ids, *[pad] * (len(row) - len(ids))] for ids in wanted)
    np.testing.assert_array_equal(ours.task.pixels.mean, np.float32([0.4, 0.5, 0.6]))
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "again")]) == 0
    first, second = (load_file(at / "model.safetensors") for at in (folder, tmp_path / "again"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(second[name], tensor, atol=1e-6, err_msg=name)
    kept = [json.loads((at / "config.json").read_text()) for at in (folder, tmp_path / "again")]
    for key in ("model_type", "text_config", "vision_config"):
        assert kept[0][key] == kept[1][key]
    # The same answers of all three, from the files that each has.
    picture = tmp_path / "pictures" / "class0" / "0.png"
    capsys.readouterr()
    for one in (folder, tmp_path / "run", tmp_path / "again"):
        asked = ["predict", str(one), str(picture), "--json", "--labels", *LABELS]
        assert cli.main(asked) == 0
    found = [json.loads(line)["probabilities"] for line in capsys.readouterr().out.splitlines()]
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=2e-4)


@pytest.mark.parametrize("kind", tiny_folders.TOWERS)
def test_the_image_encoder_alone_classifies(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path)
    more = [
        "task=image_classification",
        f"data={{kind: images, source: {{kind: folder, path: {tmp_path / 'pictures'}}}, "
        "size: 8, validation_share: 0.25}",
        "model={kind: vit}",
    ]
    config = load(ExperimentConfig, None, lines_of(folder, tmp_path, *more, width=15))
    train(config)
    theirs, ours = (attnzoo.open(one) for one in (folder, tmp_path / "run"))
    pixels = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32)

    found = [
        nnx.jit(lambda one: one.states(pixels)[0])(m) for m in (theirs.model.image, ours.model)
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(ours.task.mean, [0.4, 0.5, 0.6])
    assert ours.task.names == ("class0", "class1")
    compare_pixels(created(config, tmp_path / "pixels"), ours, tmp_path)
