"""What is hidden: the shares, whole words, and that the labels restore the text."""

from pathlib import Path

import numpy as np
import pytest

from attnzoo.config.data import (
    ByteTokenizerConfig,
    CharTokenizerConfig,
    TextConfig,
    WordPieceTokenizerConfig,
)
from attnzoo.data.documents import load_text
from attnzoo.data.masking import MaskedPlan, SpanPlan, choose_words, span_counts, span_noise
from attnzoo.data.packing import PackPlan
from attnzoo.data.text import StreamPlan, TokenizedText
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer
from attnzoo.errors import UserError

STREAM = np.random.default_rng(2).integers(20, 260, 5_000).astype(np.int32)


@pytest.fixture(scope="module")
def masking() -> TextTokenizer:
    return build_tokenizer(ByteTokenizerConfig(mask=True, sentinels=30), ())


def test_the_shares_of_bert(masking: TextTokenizer) -> None:
    plan = MaskedPlan(StreamPlan(STREAM, 32, 100, seed=1), masking, seed=5)
    batches = [plan.batch(step) for step in range(20)]
    tokens, labels, counted = (
        np.concatenate([b[key] for b in batches]) for key in ("tokens", "labels", "counted")
    )
    assert tokens.shape == (640, 102)
    assert (counted.sum(axis=1) == 15).all()
    assert np.array_equal(tokens[~counted], labels[~counted])
    assert (labels[:, 0] == masking.special("cls")).all()
    assert (labels[:, -1] == masking.special("sep")).all()
    assert not counted[:, [0, -1]].any()
    chosen = tokens[counted]
    masked = (chosen == masking.special("mask")).mean()
    kept = (chosen == labels[counted]).mean()
    # 9,600 tokens: standard deviations 0.0041 and 0.0031; of 256 random ones one is right.
    assert abs(masked - 0.8) < 4 * 0.0041
    assert abs(kept - (0.1 + 0.1 / 256)) < 4 * 0.0031
    other = chosen[(chosen != masking.special("mask")) & (chosen != labels[counted])]
    first = max(masking.specials.values()) + 1
    assert other.min() >= first
    assert other.max() < min(masking.sentinels)
    assert len(set(other.tolist())) > 230


def test_hiding_depends_on_seed_and_step_alone(masking: TextTokenizer) -> None:
    stream = StreamPlan(STREAM, 3, 17, seed=1)
    plan = MaskedPlan(stream, masking, seed=5)
    first = [plan.batch(step)["tokens"] for step in range(4)]
    assert np.array_equal(MaskedPlan(stream, masking, seed=5).batch(2)["tokens"], first[2])
    assert not np.array_equal(MaskedPlan(stream, masking, seed=6).batch(2)["counted"], first[2])
    counted = [plan.batch(step)["counted"] for step in (0, plan.steps_per_epoch)]
    assert not np.array_equal(*counted)
    assert plan.fingerprint() != MaskedPlan(stream, masking, seed=5, share=0.2).fingerprint()
    in_order = MaskedPlan(StreamPlan(STREAM[:60], 2, 17, shuffle=False), masking)
    batches = list(in_order.batches())
    assert np.array_equal(batches[1]["tokens"], in_order.batch(1)["tokens"])
    last = batches[-1]
    # 59 windowed tokens: 17, 17, 17 and 8, the last between CLS and SEP as the others.
    assert last["valid"].sum(axis=1).tolist() == [19, 10]
    assert last["labels"][1, 9] == masking.special("sep")
    assert (last["labels"][1, 10:] == masking.pad_id).all()


def test_at_least_one_token_and_the_nearest_count() -> None:
    for length, count in ((1, 1), (3, 1), (9, 1), (11, 2), (13, 2), (100, 15)):
        candidates = np.zeros((4, 101), np.bool_)
        candidates[:3, :length] = True
        chosen = choose_words(candidates, np.ones_like(candidates), 0.15, (7, length))
        assert chosen.sum(axis=1).tolist() == [count] * 3 + [0]
        assert not (chosen & ~candidates).any()


def test_whole_words_are_hidden_together() -> None:
    rng = np.random.default_rng(3)
    candidates = rng.random((200, 120)) < 0.97
    starts = rng.random((200, 120)) < 0.6
    chosen = choose_words(candidates, starts, 0.15, (1, 2))
    # A token that continues a word goes with the token before it.
    continues = candidates[:, 1:] & candidates[:, :-1] & ~starts[:, 1:]
    assert np.array_equal(chosen[:, 1:][continues], chosen[:, :-1][continues])
    assert abs(chosen.sum() / candidates.sum() - 0.15) < 0.003
    # Every word is as likely as any other.
    again = np.mean([choose_words(candidates[:1], starts[:1], 0.15, (k,)) for k in range(400)], 0)
    assert abs(again[candidates[:1]] - 0.15).max() < 5 * (0.15 * 0.85 / 400) ** 0.5


def test_real_words_of_a_real_text(shared: Path) -> None:
    path = shared / "data" / "tinyshakespeare" / "input.txt.gz"
    documents = load_text(
        TextConfig(train=(path,), documents="blank_lines", limit=900)
    ).train.documents
    tokenizer = build_tokenizer(WordPieceTokenizerConfig(vocab_size=900), documents)
    text = TokenizedText.from_documents(documents, tokenizer)
    cls, sep = tokenizer.special("cls"), tokenizer.special("sep")
    packed = PackPlan(text, 16, 128, cls, sep, predict_next=False)
    plan = MaskedPlan(packed, tokenizer, whole_words=True)
    batch = plan.batch(0)
    assert {"documents", "positions", "valid"} <= batch.keys()
    assert batch["tokens"].shape == (16, 128)
    continued = np.array([token.startswith("##") for token in tokenizer.tokens])
    inside = continued[batch["labels"][:, 1:]]
    assert inside.sum() > 100
    assert np.array_equal(batch["counted"][:, 1:][inside], batch["counted"][:, :-1][inside])
    restored = np.where(batch["counted"], batch["labels"], batch["tokens"])
    assert np.array_equal(restored, packed.batch(0)["tokens"])
    assert not np.isin(batch["labels"][batch["counted"]], [cls, sep]).any()


def test_a_tokenizer_that_does_not_fit() -> None:
    plain = build_tokenizer(CharTokenizerConfig(), ["abc"])
    with pytest.raises(UserError, match=r"tokenizer \(char\): no mask token.*set 'mask: true'"):
        MaskedPlan(StreamPlan(STREAM, 2, 9), plain)
    few = build_tokenizer(ByteTokenizerConfig(sentinels=3), ())
    with pytest.raises(UserError, match=r"3 sentinels .* needs 4"):
        SpanPlan(STREAM, few, 2, 80)


def restore(source: np.ndarray, target: np.ndarray, tokenizer: TextTokenizer) -> list[int]:
    """The text, by reading source and target as a person would."""
    spans: dict[int, list[int]] = {}
    for token in target[1:].tolist():
        if token == tokenizer.special("eos"):
            break
        if token in tokenizer.sentinels:
            spans[token] = []
            latest = spans[token]
        else:
            latest.append(token)
    assert list(spans) == list(tokenizer.sentinels[: len(spans)])
    text = []
    for token in source.tolist():
        if token == tokenizer.special("eos"):
            break
        text += spans.pop(token, [token])
    assert not spans
    return text


def test_spans_and_what_stays_restore_the_text(masking: TextTokenizer) -> None:
    plan = SpanPlan(STREAM, masking, batch_size=5, source_length=67, seed=3)
    hidden, spans = span_counts(plan.window, 0.15, 3.0)
    assert (plan.window, hidden, spans) == (73, 11, 4)
    assert plan.source_length == 67
    for step in (0, 1, 2):
        batch = plan.batch(step)
        assert batch["source"].shape == (5, 67)
        assert batch["target"].shape == (5, 11 + 4 + 1 + 1)
        assert batch["source_valid"].all()
        assert batch["counted"].all()
        assert (batch["target"][:, 0] == masking.special("bos")).all()
        for row, start in enumerate(batch["rows"].tolist()):
            text = restore(batch["source"][row], batch["target"][row], masking)
            assert text == STREAM[start : start + 73].tolist()
    again = SpanPlan(STREAM, masking, batch_size=5, source_length=67, seed=3).batch(2)
    assert np.array_equal(again["source"], batch["source"])


def test_windows_of_spans_side_by_side(masking: TextTokenizer) -> None:
    plan = SpanPlan(STREAM[:161], masking, 2, source_length=67, shuffle=False)
    batches = list(plan.batches())
    rows = np.concatenate([b["rows"] for b in batches])
    assert rows.tolist() == [0, 73, 146, -1]
    last = batches[1]
    assert last["counted"].sum(axis=1).tolist() == [2 + 1 + 1, 0]
    assert not last["source_valid"][1].any()
    assert restore(last["source"][0], last["target"][0], masking) == STREAM[146:160].tolist()
    told = sum(int(b["source_valid"].sum() + b["counted"].sum()) for b in batches)
    # Every token once, a sentinel on both sides for each of 4 + 4 + 1 spans, an EOS on both.
    assert told == 160 + 2 * 9 + 2 * 3


def test_the_length_of_spans_by_the_numbers_of_t5() -> None:
    # t5's random_spans_helper: a source of 512 comes of 568 tokens, its target has 114.
    hidden, spans = span_counts(568, 0.15, 3.0)
    assert (568 - hidden + spans + 1, hidden + spans + 1) == (512, 114)
    noise = span_noise(300, 568, 0.15, 3.0, (4,))
    assert (noise.sum(axis=1) == 85).all()
    assert not noise[:, 0].any()
    assert noise[:, -1].all()
    begins = noise[:, 1:] & ~noise[:, :-1]
    assert (begins.sum(axis=1) == 28).all()
    # All cuts alike: the first span has one token with probability 27 / 84.
    first = begins.argmax(axis=1) + 1
    alone = ~noise[np.arange(300), np.minimum(first + 1, 567)]
    assert abs(alone.mean() - 27 / 84) < 4 * (27 / 84 * 57 / 84 / 300) ** 0.5
