"""Images: every source, what stops the run, and batches."""

import builtins
import gzip
import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from attnzoo.config.images import (
    DigitsConfig,
    HubImagesConfig,
    IdxConfig,
    ImageFolderConfig,
    ImagesConfig,
    PlantedConfig,
)
from attnzoo.data.corpus import load_corpus
from attnzoo.data.images import ImagePlan, ImageSet, channel_statistics, load_images, read_idx
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError


def picture(value: int, width: int = 5, height: int = 3, mode: str = "RGB") -> Image.Image:
    colour = (value, value + 1, value + 2) if mode == "RGB" else value
    return Image.new(mode, (width, height), colour)


def folder(path: Path, **parts: dict[str, list[int]]) -> Path:
    """parts: the classes of each part with the values of their images."""
    for part, classes in parts.items():
        for name, values in classes.items():
            (path / part / name).mkdir(parents=True)
            for value in values:
                picture(value).save(path / part / name / f"{value:03}.png")
    return path


def test_a_directory_a_class(tmp_path: Path) -> None:
    path = folder(tmp_path / "d", train={"cat": [10, 11], "ant": [20]}, test={"ant": [30]})
    (path / "train" / "cat" / "notes.txt").write_text("no image")
    splits = load_corpus(ImagesConfig(source=ImageFolderConfig(path=path), validation_share=0.0))
    assert splits.train.names == ("ant", "cat")
    assert splits.train.images.shape == (3, 3, 5, 3)
    assert splits.train.images[:, 1, 2, 0].tolist() == [20, 10, 11]
    assert splits.train.images[0, 0, 0].tolist() == [20, 21, 22]
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert (len(splits.validation), len(splits.test)) == (0, 1)
    grey = ImageFolderConfig(path=path / "train", channels=1)  # without parts all are for training
    assert load_images(ImagesConfig(source=grey, validation_share=0.0)).train.images.shape == (
        3,
        3,
        5,
        1,
    )


def test_a_tar_is_as_its_directory(tmp_path: Path) -> None:
    path = folder(tmp_path / "d", train={"a": [1, 2], "b": [3]}, test={"b": [4]})
    with tarfile.open(tmp_path / "d.tar.xz", "w:xz") as archive:
        for part in ("test", "train"):
            archive.add(path / part, part)
    config = {"validation_share": 0.0}
    from_tar = load_images(
        ImagesConfig(source=ImageFolderConfig(path=tmp_path / "d.tar.xz"), **config)
    )
    from_directory = load_images(ImagesConfig(source=ImageFolderConfig(path=path), **config))
    assert from_tar.fingerprint() == from_directory.fingerprint()
    changed = folder(tmp_path / "e", train={"a": [1, 2], "b": [9]}, test={"b": [4]})
    other = load_images(ImagesConfig(source=ImageFolderConfig(path=changed), **config))
    assert other.fingerprint() != from_directory.fingerprint()


def test_sizes_are_made_alike(tmp_path: Path) -> None:
    for name, width, height in (("one", 8, 4), ("two", 6, 12)):
        (tmp_path / "a").mkdir(exist_ok=True)
        image = np.zeros((height, width, 3), np.uint8)
        image[:, :, 0] = np.linspace(0, 255, width)  # a ramp from left to right
        Image.fromarray(image).save(tmp_path / "a" / f"{name}.png")
    source = ImageFolderConfig(path=tmp_path)
    with pytest.raises(UserError, match=r"two.png: 6 x 12 pixels, others have 8 x 4: set 'size'"):
        load_images(ImagesConfig(source=source))
    images = load_images(ImagesConfig(source=source, size=4, validation_share=0.0)).train.images
    assert images.shape == (2, 4, 4, 3)
    # The middle half of the wide ramp; all of the tall one.
    assert np.abs(images[0, 0, :, 0] - np.float32([73, 109, 146, 182])).max() < 3
    assert images[1, 0, 0, 0] < 40
    assert images[1, 0, 3, 0] > 215


def test_what_is_no_image(tmp_path: Path) -> None:
    def load(path: Path) -> None:
        load_images(ImagesConfig(source=ImageFolderConfig(path=path)))

    with pytest.raises(UserError, match="none: no such directory or tar file"):
        load(tmp_path / "none")
    (tmp_path / "bad.tar").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad\.tar: not a tar file"):
        load(tmp_path / "bad.tar")
    (tmp_path / "d" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="there is no image in it"):
        load(tmp_path / "d")
    (tmp_path / "d" / "a" / "x.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a/x\.png: not an image"):
        load(tmp_path / "d")
    (tmp_path / "d" / "x.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x\.png lies in no class directory"):
        load(tmp_path / "d")


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def test_idx_files_by_hand(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.uint8([7, 3]))))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images[:1]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.uint8([3])))
    config = ImagesConfig(source=IdxConfig(directory=tmp_path), validation_share=0.0)
    splits = load_images(config)
    assert splits.train.names == ("3", "7")
    assert splits.train.labels.tolist() == [1, 0]
    assert np.array_equal(splits.train.images[..., 0], images)
    assert splits.test.images.shape == (1, 3, 4, 1)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.uint8([3]))[:-1])
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte: not an idx file of bytes, or cut"):
        load_images(config)
    with pytest.raises(UserError, match=r"none\.gz: no such file"):
        read_idx(tmp_path / "none")


def test_fashion_mnist() -> None:
    path = Path("/usr/share/datasets/fashion-mnist")
    if not path.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    splits = load_images(ImagesConfig(source=IdxConfig(directory=path)))
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
    assert sizes == [54_000, 6_000, 10_000]
    # The usual 0.2860 and 0.3530 of all 60,000.
    mean, deviation = channel_statistics(splits.train.images)
    assert abs(float(mean[0]) - 0.2860) < 2e-3
    assert abs(float(deviation[0]) - 0.3530) < 2e-3


def test_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    splits = load_images(ImagesConfig(source=DigitsConfig(), validation_share=0.1, test_share=0.2))
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
    assert sizes == [1797 - 180 - 359, 180, 359]
    assert splits.train.images.shape[1:] == (8, 8, 1)
    assert splits.train.names == tuple("0123456789")
    assert splits.train.images.max() == 255


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *rest, **more):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError("No module named 'sklearn'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(
        UserError, match=r"data\.source=digits needs scikit-learn: pip install"
    ) as e:
        load_images(ImagesConfig())
    assert "\n" not in str(e.value)


def test_a_data_set_of_images(tmp_path: Path) -> None:
    rows = []
    for value in (10, 20, 30):
        buffer = io.BytesIO()
        picture(value).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    table = datasets.Dataset.from_dict({"image": rows, "label": [1, 0, 1]})
    table = table.cast_column("image", datasets.Image())
    table = table.cast_column("label", datasets.ClassLabel(names=["ant", "bee"]))
    table.to_parquet(str(tmp_path / "t.parquet"))
    source = HubImagesConfig(
        name="parquet", data_files={"train": tmp_path / "t.parquet"}, test_split="train[2:]"
    )
    splits = load_images(
        ImagesConfig(source=source, validation_share=0.0), datasets_cache=tmp_path / "cache"
    )
    assert splits.train.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert [splits.train.names[i] for i in splits.train.labels] == ["bee", "ant", "bee"]
    assert splits.test.images[:, 0, 0].tolist() == [[30, 31, 32]]


def test_cifar_from_its_tar(shared: Path, tmp_path: Path) -> None:
    # Every fiftieth image, since decoding all 60,000 takes long.
    path = tmp_path / "some.tar"
    whole = shared / "data" / "cifar10-jpeg" / "cifar10-jpeg.tar.xz"
    with tarfile.open(whole) as archive, tarfile.open(path, "w") as some:
        for member in archive:
            if member.isfile() and int(Path(member.name).stem) % 50 == 0:
                some.addfile(member, archive.extractfile(member))
    splits = load_images(ImagesConfig(source=ImageFolderConfig(path=path), validation_share=0.1))
    assert (splits.train.labels.size, splits.validation.labels.size) == (900, 100)
    assert splits.train.images.shape[1:] == (32, 32, 3)
    assert np.bincount(splits.test.labels).tolist() == [20] * 10
    assert splits.train.names[:2] == ("airplane", "automobile")
    mean, deviation = channel_statistics(splits.train.images)
    # Of all images, as the copy's SOURCE.txt says; means of images have a deviation of 0.13.
    assert np.abs(mean - [0.4913, 0.4821, 0.4465]).max() < 4 * 0.13 / 30
    assert np.abs(deviation - [0.2452, 0.2428, 0.2606]).max() < 0.01


def test_statistics_of_channels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 3, 2)).astype(np.uint8)
    mean, deviation = channel_statistics(images)
    assert np.allclose(mean, (images / 255).mean(axis=(0, 1, 2)), atol=1e-6)
    assert np.allclose(deviation, (images / 255).std(axis=(0, 1, 2)), atol=1e-6)


def test_batches() -> None:
    images = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    data = ImageSet(images, np.arange(11, dtype=np.int32) % 4, tuple("abcd"))
    plan = ImagePlan(data, 4, seed=2)
    epochs = [list(plan.batches(epoch)) for epoch in (0, 1)]
    for batches in epochs:
        rows = np.concatenate([batch["rows"] for batch in batches])
        assert sorted(rows.tolist()) == [-1, *range(11)]
        for batch in batches:
            kept = np.maximum(batch["rows"], 0)  # a row that fills up is black and of class 0
            assert np.array_equal(batch["images"][:, 0, 0, 0], kept)
            assert np.array_equal(batch["labels"], kept % 4)
            assert batch["images"].dtype == np.uint8
    assert np.array_equal(ImagePlan(data, 4, seed=2).batch(4)["rows"], epochs[1][1]["rows"])
    assert not np.array_equal(epochs[0][0]["rows"], epochs[1][0]["rows"])
    in_order = list(ImagePlan(data, 4, shuffle=False).batches())
    assert in_order[-1]["rows"].tolist() == [8, 9, 10, -1]
    with pytest.raises(UserError, match="this part of the data is empty"):
        ImagePlan(ImageSet(images[:0], np.zeros(0, np.int32), tuple("abcd")), 4)
    assert data.images[10, 0, 0, 0] == 10  # the data itself is not blackened


# Fingerprint of the data, digests of the batches of steps 0, 1 and 777, mean and deviation, as they
# were when every set was held in memory as pixels.
RECORDED = {
    "digits": (
        ImagesConfig(test_share=0.2),
        "6646d3bb05e55717644b2872dfa2ae42",
        [
            "51fac183899a536863af6f91e8e698ba",
            "21f40060ca1a84ca95213d576b9dbf54",
            "eae1390bc04218b62d6221d32af85133",
        ],
        [0.30556637048721313, 0.3762337565422058],
    ),
    "planted": (
        ImagesConfig(source=PlantedConfig(train=37, validation=5, test=0)),
        "443e93fa7a9bef4b1c03526e68fe2dd6",
        [
            "319079306041042bdf23f0a907f6e240",
            "b430a0b9826db572c15a99e8b430ddaa",
            "b23058308eda11407b44b7b38ba56fdb",
        ],
        [0.499761700630188, 0.15312564373016357],
    ),
    "planted, scaled": (
        ImagesConfig(source=PlantedConfig(train=37, validation=5, test=0), size=12),
        "e92852545a24aa9c17391221f3c73edc",
        [
            "0c6cc1c6527cf093ab39cce1c1dca34e",
            "fc8b81a641eebb0cceb0991d46638d04",
            "3c9868206df0ac46e012a36fd651b516",
        ],
        [0.4997571110725403, 0.07985195517539978],
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_sets_in_memory_are_what_they_were(name: str) -> None:
    config, fingerprint, batches, statistics = RECORDED[name]
    if name == "digits":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    splits = load_images(config)
    assert splits.fingerprint() == fingerprint
    plan = ImagePlan(splits.train, 32, seed=5)
    found = [array_fingerprint(*plan.batch(step).values()) for step in (0, 1, 777)]
    assert found == batches
    assert [float(x[0]) for x in channel_statistics(splits.train.images)] == statistics
