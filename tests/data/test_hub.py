"""Hugging Face data sets: read from local files, with no hub in reach."""

import json
from pathlib import Path

import datasets
import pytest

from attnzoo.config.data import HubConfig
from attnzoo.data.hub import load_hub, read_split
from attnzoo.errors import UserError


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines as the OPUS sets have them; rows 1 and 3 are of no use."""
    rows = [("one", "un"), ("", "deux"), (" three ", "trois"), ("four", None), ("a b c", "d")]
    path = tmp_path_factory.mktemp("opus") / "train.json"
    lines = [
        json.dumps({"id": i, "translation": {"en": a, "fr": b}}) for i, (a, b) in enumerate(rows)
    ]
    path.write_text("\n".join(lines))
    return path


def read(path: Path, split: str = "train", source: str = "translation.en", **keywords):
    settings = {"name": "json", "data_files": {"train": path}, "cache_dir": path.parent / "cache"}
    settings |= keywords
    name = settings.pop("name")
    return read_split(name, split, source, "translation.fr", **settings)


def test_translation_columns(opus: Path) -> None:
    corpus, report = read(opus, max_words=2)
    assert corpus.source == ["one", "three"]
    assert corpus.target == ["un", "trois"]
    assert report.skipped == {"empty sentence": 2, "more than 2 words": 1}
    assert report.places["empty sentence"] == ["row 1", "row 3"]
    assert report.kept == 2


def test_splits_by_config(opus: Path, tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"en": ["a", "b", "c"], "de": ["A", "B", "C"]})
    path = tmp_path / "pairs.parquet"
    table.to_parquet(str(path))
    config = HubConfig(
        name="parquet",
        data_files={"train": path, "test": path},
        target_field="de",
        validation_split="train[1:]",
        target_language="de",
        limit=2,
    )
    splits = load_hub(config, cache_dir=tmp_path / "cache")
    assert splits.train.source == ["a", "b"]
    assert splits.validation.target == ["B", "C"]
    assert len(splits.test) == 3
    assert splits.test.target_language == "de"
    none = HubConfig(
        name="parquet",
        data_files={"train": path},
        target_field="de",
        validation_split=None,
        test_split=None,
    )
    assert len(load_hub(none, cache_dir=tmp_path / "cache").test) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"source": "translation.em"}, "no field 'translation.em' .did you mean 'translation.en'"),
        ({"source": "id"}, "field 'id' holds int64, wanted text"),
        ({"split": "dev"}, 'Unknown split "dev"'),
        ({"data_files": {"train": Path("nowhere.json")}}, "nowhere.json: no such file"),
        ({"name": "wmt14", "data_files": None}, "wmt14 train: Couldn't reach 'wmt14'"),
        ({"name": "wmt14", "data_files": None, "config": "fr-en"}, "wmt14/fr-en train: Couldn't"),
        ({"max_words": 1, "split": "train[4:]"}, "no usable sentence pair in 1 rows"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(opus: Path, wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(opus, **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{not json", b"\x80\x81\x82"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
