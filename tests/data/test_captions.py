"""Pictures with captions: every format, parts without a common picture, and what is left out."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnzoo.config.captioning import CaptionsConfig
from attnzoo.config.tokenizers import WordTokenizerConfig
from attnzoo.data.captions import CaptionPlan, load_captions
from attnzoo.data.corpus import only_part
from attnzoo.data.scenes import load_scenes
from attnzoo.data.tokenizers import train_tokenizer
from attnzoo.errors import UserError
from tests.data.test_scenes import SMALL

TEXTS = {f"p{n}.png": [f"a picture of {n} .", f"number {n}"] for n in range(11)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    for n, name in enumerate(TEXTS):
        folder = tmp_path / "pictures" / ("deep" if n % 2 else ".")
        Image.fromarray(np.full((7, 9, 3), 20 * n, np.uint8)).save(folder / name)
    with tarfile.open(tmp_path / "pictures.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "pictures", "images")
    write(tmp_path / "captions.csv", TEXTS)
    return tmp_path


def write(path: Path, texts: dict[str, list[str]]) -> Path:
    pairs = [(name, text) for name, all_ in texts.items() for text in all_]
    images = [{"id": i, "file_name": name} for i, name in enumerate(texts)]
    notes = [{"image_id": list(texts).index(name), "caption": text} for name, text in pairs]
    content = {
        ".csv": "image,caption\n" + "".join(f'{n},"{t}"\n' for n, t in pairs),
        ".tsv": "".join(f"{n}#{i}\t{t}\n" for i, (n, t) in enumerate(pairs)),
        ".jsonl": "".join(json.dumps({"image": n, "caption": t}) + "\n" for n, t in pairs),
        ".json": json.dumps({"images": images, "annotations": notes}),
    }
    path.write_text(content[path.suffix])
    return path


def config(home: Path, **settings: Any) -> CaptionsConfig:
    given = {"pictures": home / "pictures", "train": (home / "captions.csv",), "size": 5}
    return CaptionsConfig(**(given | {"validation_share": 0.0} | settings))


FORMATS: dict[str, dict[str, Any]] = {
    ".csv": {},
    ".tsv": {"format": "tsv", "header": False, "picture_column": "0", "caption_column": "1"},
    ".jsonl": {"format": "jsonl"},
    ".json": {"format": "coco"},
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("archive", ["pictures", "pictures.tar.gz"])
def test_every_format_gives_the_same(suffix: str, archive: str, home: Path) -> None:
    file = write(home / f"captions{suffix}", TEXTS)
    settings = config(home, train=(file,), pictures=home / archive, **FORMATS[suffix])
    data = load_captions(settings, home / "cache")
    assert [name.rpartition("/")[2] for name in data.train.names] == list(TEXTS)
    assert [list(texts) for texts in data.train.captions] == list(TEXTS.values())
    assert data.train.images.shape == (11, 5, 5, 3)
    assert data.train.images[:, 2, 2, 0].tolist() == [20 * n for n in range(11)]


def test_no_picture_is_in_two_parts(home: Path) -> None:
    drawn = load_captions(config(home, validation_share=0.3, test_share=0.2))
    parts = [set(getattr(drawn, part).names) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [6, 3, 2]
    assert len(set.union(*parts)) == 11
    (home / "names").write_text("p3.png\n\np0.png\n")
    named = load_captions(config(home, test_names=home / "names"))
    assert [name[-6:] for name in named.test.names] == ["p3.png", "p0.png"]
    assert len(named.train) == 9
    assert not len(named.validation)
    other = write(home / "other.csv", {"p4.png": ["again"]})
    with pytest.raises(UserError, match=r"p4.png \(1 pictures\) is in the train and in the test"):
        load_captions(config(home, test=(other,)))


@pytest.mark.parametrize("settings", [{"test_share": 0.2}, {"test_names": "names"}])
def test_one_part_alone_is_that_of_all(settings: dict[str, Any], home: Path) -> None:
    (home / "names").write_text("p3.png\np0.png\n")
    settings = {k: home / v if k == "test_names" else v for k, v in settings.items()}
    whole = config(home, **settings)
    alone = only_part(whole, "test")
    assert alone is not None
    assert only_part(config(home), "test") is None
    part = load_captions(alone, part="test").test
    assert part.fingerprint() == load_captions(whole).test.fingerprint()


def test_what_is_left_out_is_named_and_counted(home: Path) -> None:
    (home / "pictures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    (home / "pictures" / "alone.png").write_bytes((home / "pictures" / "p0.png").read_bytes())
    rows = TEXTS | {"gone.png": ["nothing"], "broken.png": ["one", "two"], "p1.png": ["fine", " "]}
    write(home / "captions.csv", rows)
    data = load_captions(config(home, max_skipped=0.5))
    said = "\n".join(line for report in data.reports for line in report.lines())
    for wanted in (
        rf"{home}/captions.csv: skipped 1: no such picture ({home}/captions.csv:24 gone.png)",
        rf"{home}/captions.csv: skipped 1: empty caption ({home}/captions.csv:5)",
        "skipped 1: not an image, or damaged: ",
        "(broken.png)",
        "skipped 1: without a caption (alone.png)",
    ):
        assert wanted in said, said
    assert len(data.train) == 11
    assert "broken.png" not in data.train.names
    with pytest.raises(UserError, match=r"1 of 12 pictures cannot be used.*not an image"):
        load_captions(config(home, max_skipped=0.08))


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        ("image,text\np0.png,a\n", {}, r"captions.csv:2: no field 'caption'"),
        (
            "image,caption\nq.png,a\n",
            {},
            r"none of its 1 captions has .*q.png",
        ),
        ("image,caption\n", {}, r"none of its 0 captions"),
        ("[]", {"format": "coco"}, r"captions.csv: not COCO's captions"),
        (
            '{"images": [], "annotations": [{}]}',
            {"format": "coco"},
            r"captions.csv: not COCO's captions .*image_id",
        ),
        ("{", {"format": "coco"}, r"captions.csv: not JSON"),
    ],
)
def test_a_wrong_file_is_one_line(
    content: str, settings: dict[str, Any], said: str, home: Path
) -> None:
    (home / "captions.csv").write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        load_captions(config(home, **settings))
    assert "\n" not in str(caught.value)


def test_pictures_that_are_not_there(home: Path) -> None:
    (home / "empty").mkdir()
    for name, said in (("empty", "no image in it"), ("none", "no such directory or tar")):
        with pytest.raises(UserError, match=said):
            load_captions(config(home, pictures=home / name))
    (home / "names").write_text("q.png\n")
    with pytest.raises(UserError, match="names a training picture"):
        load_captions(config(home, test_names=home / "names"))


def test_batches_hold_each_caption_with_its_picture_and_places() -> None:
    data = load_scenes(SMALL).train
    tokenizer = train_tokenizer(WordTokenizerConfig(), data.texts())
    plan = CaptionPlan(data, tokenizer, 5, 15, shuffle=False)
    seen = []
    for batch in plan.batches():
        assert set(batch) == {"source", "target", "picture", "cells", "rows"}
        assert batch["cells"].shape == (5, batch["target"].shape[1] - 1, 25)
        for i, row in enumerate(batch["rows"].tolist()):
            if row < 0:
                assert not any(batch[name][i].any() for name in ("source", "target", "cells"))
                continue
            seen.append(row)
            np.testing.assert_array_equal(batch["source"][i], data.images[row])
            assert tokenizer.decode(batch["target"][i].tolist()) == data.captions[row][0]
            words, places = data.captions[row][0].split(), data.cells[row][0]
            np.testing.assert_array_equal(batch["cells"][i, : len(words)], places)
            assert not batch["cells"][i, len(words) :].any()
    assert sorted(seen) == list(range(37))
    short = CaptionPlan(data, tokenizer, 5, 9, shuffle=False)
    assert short.report.skipped == {
        "more than 9 tokens": sum(len(text.split()) > 9 for text in data.texts())
    }
