# Over 400 lines: one set of pictures in every kind of source.
"""Encoded pictures: every mode and depth, every kind of source, damage, and the cache."""

import io
import json
import resource
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attnzoo.config.images import (
    HubImagesConfig,
    ImageFolderConfig,
    ImagesConfig,
    ShardsConfig,
)
from attnzoo.data import images as images_module
from attnzoo.data import picture_files
from attnzoo.data.images import ImagePlan, ImageSet, channel_statistics, load_images
from attnzoo.data.pictures import EncodedImages, decode
from attnzoo.errors import UserError

H, W = 5, 7
GREY = np.random.default_rng(0).integers(1, 255, (H, W)).astype(np.uint8)
GREY[1:3, 2:5] = 255  # transparent in modes that can be
SHOWN = Image.fromarray(GREY)
ALPHA = Image.fromarray(np.where(GREY == 255, 0, 255).astype(np.uint8))
BLACK = Image.fromarray(np.where(GREY == 255, 0, GREY).astype(np.uint8))
WIDE = Image.fromarray(GREY.astype(np.uint16) * 257)
OTHER = Image.fromarray(255 - GREY)


def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def transparent(mode: str) -> Image.Image:
    """Black where it cannot be seen."""
    image = BLACK.convert(mode)
    image.putalpha(ALPHA)
    return image


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


LOSSLESS: dict[str, Callable[[], bytes]] = {
    "grey": lambda: saved(SHOWN, "PNG"),
    "colour": lambda: saved(SHOWN.convert("RGB"), "PNG"),
    "palette": lambda: saved(SHOWN.convert("P"), "PNG"),
    "palette with a transparent colour": lambda: saved(BLACK.convert("P"), "PNG", transparency=0),
    "grey with a transparent value": lambda: saved(BLACK, "PNG", transparency=0),
    "grey and alpha": lambda: saved(transparent("L"), "PNG"),
    "colour and alpha": lambda: saved(transparent("RGB"), "PNG"),
    "webp and alpha": lambda: saved(transparent("RGB"), "WEBP", lossless=True),
    "tiff and alpha": lambda: saved(transparent("RGB"), "TIFF"),
    "16 bits": lambda: saved(WIDE, "PNG"),
    "16 bits tiff": lambda: saved(WIDE, "TIFF"),
    "16 bits pgm": lambda: (
        b"P5\n%d %d\n65535\n" % (W, H) + (GREY.astype(">u2") * 257).astype(">u2").tobytes()
    ),
    "CMYK": lambda: saved(SHOWN.convert("RGB").convert("CMYK"), "TIFF"),
    "GIF with a transparent colour": lambda: saved(BLACK, "GIF", transparency=0),
    "animated GIF": lambda: saved(SHOWN, "GIF", save_all=True, append_images=[OTHER]),
    "animated PNG": lambda: saved(SHOWN, "PNG", save_all=True, append_images=[OTHER]),
    "two pages": lambda: saved(SHOWN, "TIFF", save_all=True, append_images=[OTHER]),
    **{
        f"EXIF {number}": lambda number=number, back=back: saved(
            SHOWN.transpose(back), "PNG", **turned(number)
        )
        for number, back in {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            8: Image.Transpose.ROTATE_270,
        }.items()
    },
    "16 bits, EXIF": lambda: saved(WIDE.transpose(Image.Transpose.ROTATE_90), "PNG", **turned(6)),
}


def pixels_of(data: bytes, channels: int, place: str = "a place") -> np.ndarray:
    return decode(data, place, size=None, resize=None, channels=channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", LOSSLESS)
def test_a_picture_means_the_same_in_every_mode(mode: str, channels: int) -> None:
    expected = np.repeat(GREY[:, :, None], channels, axis=2)
    assert np.array_equal(pixels_of(LOSSLESS[mode](), channels), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_jpeg_in_every_mode(mode: str) -> None:
    ramp = Image.fromarray(np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8) * 2)
    data = saved(ramp.convert("RGB").convert(mode), "JPEG", quality=95)
    assert np.abs(pixels_of(data, 1)[..., 0].astype(int) - np.asarray(ramp)).max() < 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


DAMAGED = {
    "empty": b"",
    "text": b"no image at all",
    "cut JPEG": saved(Image.effect_noise((64, 64), 50), "JPEG")[:-400],
    "cut PNG": saved(Image.effect_noise((64, 64), 50), "PNG")[:-400],
    "flipped PNG": LOSSLESS["grey"]()[:40] + b"\0" * 9 + LOSSLESS["grey"]()[49:],
    "floats": saved(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"),
    "many pixels": bomb(10_000),
    "a bomb": bomb(100_000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line_with_the_place(name: str) -> None:
    with pytest.raises(UserError) as raised:
        pixels_of(DAMAGED[name], 3, "d: a/x.png")
    assert str(raised.value).startswith("d: a/x.png: ")
    assert len(str(raised.value).splitlines()) == 1


# Part and class of pictures, in the order of their names.
CLASSES = {"train": ["ant"] * 3 + ["bee"] * 4, "test": ["ant", "bee"]}
VALUES = {"train": [10, 20, 30, 40, 50, 60, 70], "test": [80, 90]}


def pictures() -> Iterator[tuple[str, str, str, bytes]]:
    """Part, class, name and content."""
    for part, classes in CLASSES.items():
        for i, (name, value) in enumerate(zip(classes, VALUES[part], strict=True)):
            image = Image.fromarray(np.full((4, 6, 3), value, np.uint8))
            yield part, name, f"{i}.png", saved(image, "PNG")


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def a_folder(home: Path) -> ImageFolderConfig:
    for part, label, name, data in pictures():
        folder = home / "d" / part / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return ImageFolderConfig(path=home / "d")


def a_tar(home: Path, mode: str = "w") -> ImageFolderConfig:
    path = home / f"d.tar.{mode[2:]}"
    with tarfile.open(path, mode) as archive:  # ty: ignore[no-matching-overload]
        for part, label, name, data in reversed(list(pictures())):
            add(archive, f"./{part}/{label}/{name}", data)
    return ImageFolderConfig(path=path)


def tars(home: Path) -> ImageFolderConfig:
    listed = list(pictures())
    for number, some in enumerate((listed[:2], listed[2:])):
        with tarfile.open(home / f"d-{number}.tar", "w") as archive:
            for part, label, name, data in some:
                add(archive, f"{part}/{label}/{name}", data)
    return ImageFolderConfig(path=home / "d-*.tar")


def webdataset(home: Path) -> ShardsConfig:
    for part in CLASSES:
        with tarfile.open(home / f"{part}.tar", "w") as archive:
            for own, label, name, data in pictures():
                if own == part:
                    add(archive, name, data)
                    add(archive, name.replace(".png", ".cls"), label.encode())
    return ShardsConfig(train=(home / "train.tar",), test=(home / "test.tar",))


def parquet(home: Path, binary: bool = False) -> ShardsConfig:
    """Two shards with names in the schema as `datasets` writes them, or bytes and strings."""
    info = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    listed = list(pictures())
    for shard, some in {"train-0": listed[:3], "train-1": listed[3:7], "test": listed[7:]}.items():
        column = [data if binary else {"bytes": data, "path": None} for *_, data in some]
        labels = [label if binary else ["ant", "bee"].index(label) for _, label, *_ in some]
        table = pa.table({"image": column, "label": labels})
        if not binary:
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, home / f"{shard}.parquet", row_group_size=2)
    return ShardsConfig(train=(home / "train-*.parquet",), test=(home / "test.parquet",))


def hub(home: Path) -> HubImagesConfig:
    import datasets

    for part in CLASSES:
        some = [picture for picture in pictures() if picture[0] == part]
        rows = [{"bytes": data, "path": None} for *_, data in some]
        table = datasets.Dataset.from_dict({"image": rows, "label": [row[1] for row in some]})
        table.cast_column("image", datasets.Image()).to_parquet(str(home / f"{part}.parquet"))
    files = {part: home / f"{part}.parquet" for part in CLASSES}
    return HubImagesConfig(name="parquet", data_files=files)


SOURCES: dict[str, Callable[[Path], Any]] = {
    "folder": a_folder,
    "tar": a_tar,
    "tar.gz": lambda home: a_tar(home, "w:gz"),
    "tar.xz": lambda home: a_tar(home, "w:xz"),
    "tars": tars,
    "webdataset": webdataset,
    "parquet": parquet,
    "parquet of bytes": lambda home: parquet(home, binary=True),
    "hub": hub,
}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat small sets as large ones: pixels stay encoded, copies and lists lie in the cache."""
    monkeypatch.setattr(images_module, "PIXELS_HELD", 0)
    monkeypatch.setattr(picture_files, "HELD_BYTES", 0)


def load(source: Any, home: Path, **more: Any) -> Any:
    config = ImagesConfig(source=source, validation_share=0.0, **more)
    return load_images(config, home / "cache", home / "datasets")


def check(part: ImageSet, name: str) -> None:
    assert [part.names[label] for label in part.labels] == CLASSES[name]
    assert part.images.shape == (len(part), 4, 6, 3)
    assert part.images[:][:, 0, 0, 0].tolist() == VALUES[name]


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_pictures(kind: str, tmp_path: Path) -> None:
    splits = load(SOURCES[kind](tmp_path), tmp_path)
    assert isinstance(splits.train.images, np.ndarray)
    check(splits.train, "train")
    check(splits.test, "test")
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", SOURCES)
def test_large_sets_are_decoded_at_use(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path)
    splits = load(source, tmp_path)
    images = splits.train.images
    assert isinstance(images, EncodedImages)
    check(splits.train, "train")
    check(splits.test, "test")
    assert np.array_equal(images[3], images[np.array([3])][0])
    held = ImageSet(images[:], splits.train.labels, splits.train.names)
    for step in (0, 1, 7):
        whole = ImagePlan(held, 4, seed=3).batch(step)
        for threads in (1, 2, 4):
            images.threads = threads
            plan = ImagePlan(splits.train, 4, seed=3)
            assert all(np.array_equal(whole[name], x) for name, x in plan.batch(step).items())
            shares = [plan.batch(step, slice(i, i + 1)) for i in range(4)]
            for name, expected in whole.items():
                assert np.array_equal(np.concatenate([s[name] for s in shares]), expected)
    assert np.array_equal(channel_statistics(images), channel_statistics(held.images))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("copies")}
    assert bool(before) == (kind != "folder")
    again = load(source, tmp_path)
    assert again.fingerprint() == splits.fingerprint()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("copies")} == before
    for path in before:  # a copy that was cut is made again
        path.write_bytes(path.read_bytes()[:-1])
    if any(path.stat().st_size for path in before):
        check(load(source, tmp_path).test, "test")


@pytest.mark.usefixtures("large")
def test_the_fingerprint_is_of_names_sizes_and_classes(tmp_path: Path) -> None:
    source = a_folder(tmp_path)
    found = {load(source, tmp_path).fingerprint()}
    path = tmp_path / "d" / "train" / "ant" / "0.png"
    path.write_bytes(path.read_bytes() + b"\0")
    found.add(load(source, tmp_path).fingerprint())
    path = path.rename(path.with_name("00.png"))
    found.add(load(source, tmp_path).fingerprint())
    path.rename(tmp_path / "d" / "train" / "bee" / "00.png")
    found.add(load(source, tmp_path).fingerprint())
    found.add(load(source, tmp_path, size=3).fingerprint())
    assert len(found) == 5


@pytest.mark.usefixtures("large")
def test_errors_at_use_name_the_picture(tmp_path: Path) -> None:
    source = a_folder(tmp_path)
    bee = tmp_path / "d" / "train" / "bee"
    (bee / "4.png").write_bytes(saved(Image.new("RGB", (3, 2)), "PNG"))
    (bee / "5.png").write_bytes((bee / "6.png").read_bytes()[:-30])
    images = load(source, tmp_path).train.images
    (bee / "3.png").write_bytes(b"longer or shorter")
    (bee / "6.png").unlink()
    for row, message in {
        3: r"train/bee/3.png: its size changed",
        4: r"train/bee/4.png: 3 x 2 pixels, others have 6 x 4: set 'size'",
        5: r"train/bee/5.png: not an image, or damaged: (?!.*BytesIO)",
        6: r"train/bee/6.png: cannot be read: No such file",
    }.items():
        with pytest.raises(UserError, match=message):
            images[row]
    with pytest.raises(UserError, match=r"bee/3.png"):  # the first one, whatever thread has it
        images[:]


@pytest.mark.usefixtures("large")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source = parquet(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(UserError, match=r"make room, or set cache.path"):
            load(source, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    check(load(source, tmp_path).train, "train")


def test_an_archive_that_unpacks_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "UNPACKED_BYTES", 2**20)
    with tarfile.open(tmp_path / "d.tar.xz", "w:xz") as archive:
        add(archive, "a/0.png", bytes(2**21))
    with pytest.raises(UserError, match=r"d.tar.xz: unpacks to more than"):
        load(ImageFolderConfig(path=tmp_path / "d.tar.xz"), tmp_path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"nothing"), "not a parquet file, or damaged"),
        (lambda path: pq.write_table(pa.table({"label": [1]}), path), "no field 'image'; it has"),
        (
            lambda path: pq.write_table(pa.table({"image": [3], "label": [1]}), path),
            "row 0: a int, wanted an image",
        ),
        (
            lambda path: pq.write_table(
                pa.table({"image": [b"x", b"y"], "label": [1, None]}), path
            ),
            "row 1: no class in field 'label'",
        ),
    ],
)
def test_parquet_that_holds_something_else(
    write: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.parquet"
    write(path)
    with pytest.raises(UserError, match=message):
        load(ShardsConfig(train=(path,)), tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load(ShardsConfig(train=(tmp_path / "none-*.tar",)), tmp_path)


def test_links_in_a_tar(tmp_path: Path) -> None:
    one, two = (saved(Image.new("L", (3, 2), value), "PNG") for value in (10, 20))
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        add(archive, "a/0.png", one)
        add(archive, "b/0.png", two)
        for kind, name, target in (
            (tarfile.LNKTYPE, "b/1.png", "a/0.png"),
            (tarfile.SYMTYPE, "a/1.png", "../b/0.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    train = load(ImageFolderConfig(path=tmp_path / "d.tar"), tmp_path).train
    assert train.images[:, 0, 0, 0].tolist() == [10, 20, 20, 10]


def test_the_shorter_side_is_scaled_and_the_centre_cropped(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(0, 240, 20, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2)
    data = saved(Image.fromarray(ramp), "PNG")
    plain = decode(data, "", size=4, resize=8, channels=1)[0, :, 0]
    assert plain.tolist() == ramp[0, 4:8, 0].tolist()
    with pytest.raises(ValueError, match="resize=3, wanted size=4 or more"):
        ImagesConfig(source=ShardsConfig(train=(tmp_path,), resize=3), size=4)


def test_statistics_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 256, (400, 2, 3, 1)).astype(np.uint8)
    exact = channel_statistics(values)
    monkeypatch.setattr(images_module, "PIXELS_HELD", 300)
    assert np.array_equal(channel_statistics(values), exact)  # all of at most 20,000
    monkeypatch.setattr(images_module, "SAMPLED_ABOVE", 10)
    monkeypatch.setattr(images_module, "SAMPLE", 100)
    sampled = channel_statistics(values)
    assert np.array_equal(channel_statistics(values), sampled)
    assert not np.array_equal(sampled, exact)
    error = 0.29 / np.sqrt(600)  # of the mean of 600 even values
    assert np.abs(np.subtract(sampled, exact)).max() < 4 * error
