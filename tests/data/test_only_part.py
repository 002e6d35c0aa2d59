"""One part of a data set is read as with the others, though their files are gone."""

import itertools
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from attnzoo.config.captioning import CaptionsConfig
from attnzoo.config.data import (
    Data,
    FilePartConfig,
    FilesConfig,
    HubConfig,
    HubSourceConfig,
    LabelledTextConfig,
    TaggedTextConfig,
    TextConfig,
)
from attnzoo.config.detection import BoxesConfig, CocoConfig
from attnzoo.config.images import (
    HubImagesConfig,
    IdxConfig,
    ImageFolderConfig,
    ImagesConfig,
    ShardsConfig,
)
from attnzoo.config.question_answering import QuestionsConfig
from attnzoo.config.speech import SpeechConfig
from attnzoo.config.stories import StoriesConfig
from attnzoo.data.corpus import PARTS, load_corpus, only_part
from attnzoo.data.images import load_images
from tests.spoken import tone, write_wave


def write(home: Path) -> None:
    """Write parts of every kind of data, as folders train, validation and test."""
    for number, part in enumerate(PARTS, start=1):
        folder = home / part
        folder.mkdir()
        words = [" ".join(["word"] * (i % 5 + number)) for i in range(20)]
        (folder / "text").write_text("".join(f"{line}\n" for line in words))
        (folder / "tsv").write_text("".join(f"{w}\t{'ab'[i % 2]}\n" for i, w in enumerate(words)))
        (folder / "conll").write_text("".join(f"{w} {'AB'[len(w) % 2]}\n\n" for w in words))
        pictures = folder / "pictures"
        for label, i in itertools.product("ab", range(4 * number)):
            (pictures / label).mkdir(parents=True, exist_ok=True)
            pixels = np.full((3, 3), 50 * number + i, np.uint8)
            Image.fromarray(pixels).save(pictures / label / f"{i}.png")
        names = [f"{part}/pictures/a/{i}.png" for i in range(4 * number)]
        boxes = [{"image_id": i, "category_id": 1, "bbox": [0, 1, 2, 2]} for i in range(number)]
        listed = {"images": [{"id": i, "file_name": name} for i, name in enumerate(names)]}
        listed |= {"annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
        (folder / "boxes.json").write_text(json.dumps(listed))
        captions = "".join(f"{name},a thing {i}\n" for i, name in enumerate(names))
        (folder / "captions.csv").write_text(f"image,caption\n{captions}")
        asked = [
            {"id": f"{part}{i}", "question": "who", "answers": [{"text": "a", "answer_start": 0}]}
            for i in range(number)
        ]
        paragraphs = [{"context": "a cat", "qas": asked}]
        (folder / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
        (folder / "babi").write_text("1 a cat sat .\n2 who sat ?\tcat\t1\n" * number)
        for i in range(number):
            write_wave(folder / f"{i}.wav", tone(300.0, 0.1))
        rows = "".join(f"{i}.wav\tone {part}\n" for i in range(number))
        (folder / "sounds.tsv").write_text(f"path\ttext\n{rows}")
        with tarfile.open(folder / "tar", "w") as archive:
            archive.add(pictures, part)
        shutil.copytree(pictures, home / "folder" / part)
    for stem, part in (("train", "train"), ("t10k", "test")):
        (home / "idx").mkdir(exist_ok=True)
        images = np.arange(20 * 9, dtype=np.uint8).reshape(20, 3, 3) + len(part)
        labels = np.arange(20, dtype=np.uint8) % 2
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">i4").tobytes()
            (home / "idx" / f"{stem}-{name}-ubyte").write_bytes(header + array.tobytes())


def parts(home: Path, name: str, *names: str) -> dict[str, tuple[Path, ...]]:
    return {part: (home / part / name,) for part in names or PARTS}


def images(source: Any, **settings: Any) -> ImagesConfig:
    return ImagesConfig(source=source, validation_share=0.3, split_seed=5, **settings)


SPLITS: dict[str, Any] = {f"{part}_split": part for part in PARTS}
SHARES = {"validation_share": 0.2, "test_share": 0.1}
CONFIGS: dict[str, Callable[[Path], Any]] = {
    "files": lambda home: FilesConfig(
        limit=7, **{part: FilePartConfig(table=home / part / "tsv") for part in PARTS}
    ),
    "text": lambda home: TextConfig(documents="lines", limit=7, **parts(home, "text")),
    "text, shares": lambda home: TextConfig(train=(home / "train" / "text",), **SHARES),
    "text, one share": lambda home: TextConfig(
        documents="lines", **SHARES, **parts(home, "text", "train", "validation")
    ),
    "labelled_text": lambda home: LabelledTextConfig(
        header=False, text_column="0", label_column="1", **SHARES, **parts(home, "tsv")
    ),
    "labelled_text, share": lambda home: LabelledTextConfig(
        header=False,
        text_column="0",
        label_column="1",
        **SHARES,
        **parts(home, "tsv", "train", "validation"),
    ),
    "tagged_text": lambda home: TaggedTextConfig(limit=9, **parts(home, "conll")),
    "images, folder": lambda home: images(
        ImageFolderConfig(path=home / "folder", channels=1), limit=6
    ),
    "images, shards": lambda home: images(ShardsConfig(channels=1, **parts(home, "tar"))),
    "images, shards, share": lambda home: images(
        ShardsConfig(channels=1, **parts(home, "tar", "train", "test"))
    ),
    "images, idx": lambda home: images(IdxConfig(directory=home / "idx")),
    "captions": lambda home: CaptionsConfig(
        pictures=home, size=3, max_skipped=1.0, **parts(home, "captions.csv")
    ),
    "questions": lambda home: QuestionsConfig(**parts(home, "squad.json")),
    "stories": lambda home: StoriesConfig(**parts(home, "babi")),
    "speech": lambda home: SpeechConfig(**parts(home, "sounds.tsv")),
    "boxes": lambda home: BoxesConfig(
        source=CocoConfig(images=home, **{part: home / part / "boxes.json" for part in PARTS})
    ),
}
MADE = {"cldr", "synthetic", "reports", "scenes", "made_questions", "made_stories"}
# Parts that are drawn from the training part, and need it.
DRAWN = {
    "text, shares": PARTS[1:],
    "text, one share": ("test",),
    "labelled_text, share": ("test",),
    "images, shards, share": ("validation",),
    "images, idx": ("validation",),
}


def test_every_kind_of_data_is_here() -> None:
    # Every part of interactions is in every history of the one table; strings are spliced from the
    # recordings of one folder.
    kinds = {name.split(",")[0] for name in CONFIGS} | MADE | {"hub", "interactions", "spliced"}
    assert kinds == {kind.kind for kind in get_args(get_args(Data)[0])}


def digest_of(config: Any, part: str, names: tuple[str, ...]) -> str:
    if config.kind == "images":
        return getattr(load_images(config, names=names, part=part), part).fingerprint()
    return getattr(load_corpus(config), part).fingerprint()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_part_alone_is_that_beside_the_others(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    config = CONFIGS[name](tmp_path)
    names = getattr(load_corpus(config).train, "names", ())
    if config.kind in ("labelled_text", "tagged_text", "boxes"):
        field = "tags" if config.kind == "tagged_text" else "labels"
        config = type(config)(**(vars(config) | {field: names}))
    whole = {part: digest_of(config, part, names) for part in PARTS}
    assert len(set(whole.values())) == len(PARTS)
    for part in PARTS:
        needed = {part, "train"} if part in DRAWN.get(name, ()) else {part}
        found = name in ("images, folder", "images, idx")  # only by looking for them
        for other in {"train"} - needed if found else set(PARTS) - needed:
            for folder in (tmp_path, tmp_path / "folder"):
                (folder / other).rename(folder / f"no {other}")
            for file in (tmp_path / "idx").glob(f"{other}-*"):
                file.rename(file.with_name(f"no {file.name}"))
        assert digest_of(only_part(config, part), part, names) == whole[part], part
        for gone in tmp_path.rglob("no *"):
            gone.rename(gone.with_name(gone.name.removeprefix("no ")))


def test_a_part_that_is_not_there() -> None:
    path = Path("text")
    assert only_part(TextConfig(train=(path,)), "test") is None
    assert only_part(TextConfig(validation=(path,), test_share=0.1), "test") is None
    assert only_part(FilesConfig(train=FilePartConfig(table=path)), "validation") is None
    assert only_part(HubConfig(name="a", test_split=None), "test") is None


@pytest.mark.parametrize(
    ("config", "holder"),
    [
        (HubConfig(name="a", **SPLITS), lambda config: config),
        (TextConfig(hub=HubSourceConfig(name="a", **SPLITS)), lambda config: config.hub),
        (ImagesConfig(source=HubImagesConfig(name="a", **SPLITS)), lambda config: config.source),
    ],
)
def test_only_one_split_of_a_hub_is_asked_for(config: Any, holder: Callable[[Any], Any]) -> None:
    for part in PARTS:
        alone = holder(only_part(config, part))
        assert [getattr(alone, f"{other}_split") for other in PARTS if other != part] == [None] * 2
        assert getattr(alone, f"{part}_split") == part
