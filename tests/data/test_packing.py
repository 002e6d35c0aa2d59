"""Packed rows: every document once, whole where it fits, and nothing of its neighbours."""

from pathlib import Path

import numpy as np
import pytest

from attnzoo.config.data import ByteTokenizerConfig, TextConfig
from attnzoo.data.documents import load_text
from attnzoo.data.packing import PackPlan
from attnzoo.data.text import TokenizedText
from attnzoo.data.text_tokenizers import build_tokenizer
from attnzoo.errors import UserError

BEGIN, END, PADDING = 1, 2, 0


def make_text(lengths: list[int]) -> TokenizedText:
    """Document `i` has the ids 100 * i + 100, and on."""
    ids = [100 * i + 100 + j for i, length in enumerate(lengths) for j in range(length)]
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return TokenizedText(np.asarray(ids, np.int32), offsets, 100_000)


def test_first_fit_by_hand() -> None:
    # With BEGIN and END the cells are 4, 2, 6, 1 + 0, 3: 4+2 | 6 | 3; an empty document has none.
    plan = PackPlan(make_text([3, 1, 5, 0, 2]), 3, 6, BEGIN, END, shuffle=False)
    (batch,) = plan.batches()
    assert batch["tokens"].tolist() == [
        [1, 100, 101, 102, 1, 200],
        [1, 300, 301, 302, 303, 304],
        [1, 500, 501, 0, 0, 0],
    ]
    assert batch["targets"].tolist() == [
        [100, 101, 102, 2, 200, 2],
        [300, 301, 302, 303, 304, 2],
        [500, 501, 2, 0, 0, 0],
    ]
    assert batch["documents"].tolist() == [[1] * 4 + [2] * 2, [1] * 6, [1] * 3 + [0] * 3]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 0, 1], [*range(6)], [0, 1, 2, 0, 0, 0]]
    assert np.array_equal(batch["valid"], batch["documents"] > 0)
    assert np.array_equal(batch["counted"], batch["valid"])
    assert plan.fill == 15 / 18


def test_a_later_document_goes_to_the_first_row_with_room() -> None:
    plan = PackPlan(
        make_text([4, 4, 2, 1]), 2, 5, shuffle=False, predict_next=False
    )  # 4+1 | 4 | 2 would waste more: the third opens a row, the fourth goes back to the first
    batches = list(plan.batches())
    assert batches[0]["tokens"].tolist() == [[100, 101, 102, 103, 400], [200, 201, 202, 203, 0]]
    assert batches[1]["tokens"].tolist() == [[300, 301, 0, 0, 0], [0] * 5]
    assert batches[1]["rows"].tolist() == [2, -1]
    assert "targets" not in batches[0]


def test_a_long_document_is_cut_and_shares_the_token_at_the_cut() -> None:
    (batch,) = PackPlan(make_text([7]), 3, 3, shuffle=False, end=END).batches()
    assert batch["tokens"].tolist() == [[100, 101, 102], [103, 104, 105], [106, 0, 0]]
    assert batch["targets"].tolist() == [[101, 102, 103], [104, 105, 106], [2, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2], [0, 1, 2], [0, 0, 0]]


def test_every_epoch_has_every_token_once_in_another_order() -> None:
    lengths = np.random.default_rng(5).integers(0, 40, 301).tolist()
    text = make_text(lengths)
    plan = PackPlan(text, 7, 23, BEGIN, END, seed=11)
    epochs = [list(plan.batches(epoch)) for epoch in (0, 1)]
    for batches in epochs:
        told = np.concatenate([b["targets"][b["counted"]] for b in batches])
        assert sorted(told[told != END]) == text.ids.tolist()
        assert (told == END).sum() == sum(length > 0 for length in lengths)
    assert not np.array_equal(epochs[0][0]["tokens"], epochs[1][0]["tokens"])
    steps = plan.steps_per_epoch
    again = PackPlan(text, 7, 23, BEGIN, END, seed=11)
    assert np.array_equal(again.batch(steps + 2)["tokens"], epochs[1][2]["tokens"])
    assert again.fingerprint() == plan.fingerprint()
    assert PackPlan(text, 7, 23, BEGIN, END, seed=12).fingerprint() != plan.fingerprint()
    cells = sum(b["valid"].sum() for b in epochs[0])
    assert plan.fill == cells / (23 * sum((b["rows"] >= 0).sum() for b in epochs[0]))
    for batch in epochs[0]:
        # In one document the successor of a token is its target.
        same = batch["documents"][:, 1:] == batch["documents"][:, :-1]
        same &= batch["valid"][:, 1:]
        assert (batch["tokens"][:, 1:] == batch["targets"][:, :-1])[same].all()
        assert (np.diff(batch["positions"], axis=1)[same] == 1).all()


def test_lines_of_a_play_fill_the_rows(shared: Path) -> None:
    path = shared / "data" / "tinyshakespeare" / "input.txt.gz"
    splits = load_text(TextConfig(train=(path,), documents="blank_lines"))
    text = TokenizedText.from_documents(
        splits.train.documents, build_tokenizer(ByteTokenizerConfig(), ())
    )
    plan = PackPlan(text, 32, 256, BEGIN, END, pad_id=PADDING)
    assert len(text) == 7_222
    assert plan.fill > 0.98


def test_nothing_to_pack() -> None:
    with pytest.raises(UserError, match="nothing to pack"):
        PackPlan(make_text([1, 0]), 2, 5)
