"""Hugging Face data sets: read from local files, with no hub in reach."""

import json
from pathlib import Path

import datasets
import pytest

from attnzoo.config.cache import CacheConfig
from attnzoo.config.data import HubConfig, WordTokenizerConfig
from attnzoo.data import hub
from attnzoo.data.batching import BatchPlan
from attnzoo.data.hub import load_hub
from attnzoo.data.parallel import PairData
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
    settings = {"name": "json", "data_files": {"train": path}, "max_skipped": 1.0} | keywords
    only = {"train_split": split, "validation_split": None, "test_split": None}
    fields = {"source_field": source, "target_field": "translation.fr"}
    splits = load_hub(HubConfig(**settings, **only, **fields), path.parent / "cache")
    return splits.train, splits.reports[0]


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
        ({"max_words": 1, "split": "train[4:]"}, r"no usable sentence pair .1 more than 1 words"),
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


def test_a_large_data_set_goes_through_a_token_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "BLOCK_LINES", 7)
    rows = {"en": [f"a {i}" for i in range(40)], "fr": [f"b {i % 3}" for i in range(40)]}
    rows["fr"][9] = None
    path = tmp_path / "pairs.parquet"
    datasets.Dataset.from_dict(rows).to_parquet(str(path))
    config = HubConfig(
        name="parquet",
        data_files={"train": path},
        validation_split="train[:5]",
        test_split=None,
        max_skipped=0.1,
    )
    found = []
    for memory in (10**6, 0):
        cache = CacheConfig(path=tmp_path / "store", memory=memory, workers=0)
        data = PairData(config, cache)
        assert data.large == (memory == 0)
        both = data.tokenizers(WordTokenizerConfig())
        pairs, _ = data.tokens("train", *both, 10)
        data.tokens("validation", *both, 10)
        found.append([BatchPlan(pairs, 4).fingerprint(), data.reports[0].places])
    assert found[0] == found[1]
    assert found[0][1] == {"empty sentence": ["row 9"]}
