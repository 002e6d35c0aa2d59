"""The loss by hand, and lines in, lines out."""

import copy
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.cli.translate import _replace_unknown
from attnzoo.config.attention import AdditiveConfig, GeneralConfig, LocationConfig
from attnzoo.config.model import BahdanauConfig, LuongConfig
from attnzoo.data.tokenizers import train_subword_tokenizer, train_word_tokenizer
from attnzoo.models import TRANSLATORS
from attnzoo.special_tokens import BOS, EOS, PAD, UNK
from attnzoo.tasks.losses import label_losses
from attnzoo.tasks.translation import (
    Translation,
    Translator,
    padded_length,
    translation_loss,
)

WORDS = "a b c d e f g h"
TOKENIZER = train_word_tokenizer([WORDS])
V = TOKENIZER.vocab_size


def test_losses_by_hand() -> None:
    logits = jnp.log(jnp.float32([[[0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [1.0, 1e-9, 1e-9]]]))
    labels = jnp.int32([[2, 1, PAD]])
    loss, nll = label_losses(logits, labels, labels != PAD)
    np.testing.assert_allclose(nll, [[-np.log(0.7), -np.log(0.25), 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(loss, nll)
    smooth, same = label_losses(logits, labels, labels != PAD, 0.3)
    np.testing.assert_array_equal(same, nll)
    # 0.7 on the label, and 0.1 on each of the three.
    first = -0.1 * np.log(0.1) - 0.1 * np.log(0.2) - 0.8 * np.log(0.7)
    second = -0.1 * np.log(0.5) - 0.8 * np.log(0.25) - 0.1 * np.log(0.25)
    np.testing.assert_allclose(smooth, [[first, second, 0.0]], rtol=1e-6)


def test_smoothing_floor() -> None:
    """The entropy of the smoothed target, V = 37000, epsilon = 0.1 (METHODS.md, section 4.2)."""
    size, epsilon = 37_000, 0.1
    target = np.full(size, epsilon / size)
    target[5] += 1 - epsilon
    label, counted = jnp.int32([[5]]), jnp.bool_([[True]])
    loss, _ = label_losses(jnp.float32(np.log(target))[None, None], label, counted, epsilon)
    np.testing.assert_allclose(loss, 1.376913, atol=2e-6)
    worse, _ = label_losses(jnp.float32(np.log(target))[None, None] * 1.1, label, counted, 0.1)
    assert float(worse[0, 0]) > 1.37692


def test_bfloat16_logits_give_a_float32_loss() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 7)), jnp.bfloat16)
    labels = jnp.int32([[1, 2, 3], [4, 5, 6]])
    loss, nll = label_losses(logits, labels, labels != PAD, 0.1)
    assert loss.dtype == nll.dtype == jnp.float32


class Table(nnx.Module):
    """A model whose logits are a table of the input token: the loss can be added up by hand."""

    def __init__(self, table: np.ndarray):
        self.table = nnx.Param(jnp.float32(table))

    def __call__(self, source, target, *, rngs=None):
        return self.table[...][target]


def test_a_batch_counts_real_tokens_or_sentences() -> None:
    table = np.log(np.random.default_rng(1).dirichlet(np.ones(7), size=7))
    target = np.array([[BOS, 4, 5, EOS], [BOS, 6, EOS, PAD], [PAD] * 4])
    batch = {"source": jnp.int32(target), "target": jnp.int32(target)}
    pairs = [(BOS, 4), (4, 5), (5, EOS), (BOS, 6), (6, EOS)]
    total = -sum(table[a, b] for a, b in pairs)
    loss, sums = translation_loss(Table(table), batch)
    np.testing.assert_allclose(loss, total / 5, rtol=1e-5)
    np.testing.assert_allclose(sums["nll"], total, rtol=1e-5)
    assert float(sums["count"]) == 5
    assert float(sums["correct"]) == sum(table[a].argmax() == b for a, b in pairs)
    # The row of padding that fills up a last batch is no sentence.
    loss, _ = translation_loss(Table(table), batch, per="sentence")
    np.testing.assert_allclose(loss, total / 2, rtol=1e-5)
    empty = {name: jnp.zeros_like(value) for name, value in batch.items()}
    loss, sums = translation_loss(Table(table), empty)
    assert float(loss) == float(sums["count"]) == 0


@functools.cache
def translator(kind: str = "bahdanau", batch_size: int = 4, max_source: int = 20) -> Translator:
    config = {
        "bahdanau": BahdanauConfig(attention=AdditiveConfig(), hidden=8, embedding=6, maxout=5),
        "luong": LuongConfig(attention=GeneralConfig(), hidden=8, embedding=6, layers=1),
        "location": LuongConfig(
            attention=LocationConfig(max_length=11), hidden=8, embedding=6, layers=1
        ),
    }[kind]
    model = TRANSLATORS[config.kind](config, V, V, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    keys = iter(jax.random.split(jax.random.key(3), 99))
    draw: Callable = lambda x: x + 0.7 * jax.random.normal(next(keys), x.shape)  # noqa: E731
    model = nnx.merge(graph, jax.tree.map(draw, state))
    # Outputs that end, and that can be written down.
    model.output.bias[...] = model.output.bias[...].at[EOS].add(2.0).at[UNK].set(-100.0)
    return Translator(model, TOKENIZER, TOKENIZER, batch_size=batch_size, max_source=max_source)


LINES = ["a b c", "", "d", "h g f e d c b a b", "b", "x y", "  "]


@pytest.mark.parametrize("beam", [1, 3])
def test_lines_keep_their_order_and_do_not_notice_each_other(beam: int) -> None:
    results = translator().translate(LINES, beam=beam)
    assert [result is None for result in results] == [line.strip() == "" for line in LINES]
    for line, result in zip(LINES, results, strict=True):
        if result is None:
            continue
        assert result.source.words == line.split()
        (alone,) = translator().translate([line], beam=beam)
        assert alone is not None
        assert alone.text == result.text
        np.testing.assert_allclose(alone.log_prob, result.log_prob, rtol=1e-5)
        columns = len(line.split()) + 1
        assert result.weights.shape[1] == columns
        np.testing.assert_allclose(result.weights.sum(axis=1), 1.0, rtol=1e-4)
        assert result.text.split() == result.target.words
        assert len(result.target.ids) <= len(result.weights) <= len(result.target.ids) + 1


@pytest.mark.parametrize("beam", [1, 3])
def test_what_was_found_has_the_probability_of_what_is_forced(beam: int) -> None:
    """The same numbers by another road: search step by step, force all steps at once."""
    lines = [*WORDS.split(), "a b", "h g f", "c c c c"]
    results = translator("luong").translate(lines, beam=beam, alpha=1.0)
    # A hypothesis that was cut off has no end whose probability could be forced.
    finished = {
        line: result
        for line, result in zip(lines, results, strict=True)
        if result is not None and 0 < len(result.target.ids) < len(result.weights)
    }
    assert len(finished) >= 3
    for line, result in finished.items():
        (forced,) = translator("luong").force([line], [result.text])
        assert forced is not None
        np.testing.assert_allclose(forced.log_probs.sum(), result.log_prob, rtol=1e-4)
        np.testing.assert_allclose(forced.weights, result.weights, atol=1e-4)
        # Greedy search ranks nothing, and so has no penalty.
        penalty = (5 + len(forced.log_probs)) / 6 if beam > 1 else 1
        np.testing.assert_allclose(result.score, result.log_prob / penalty, rtol=1e-5)


def test_long_lines_are_refused_and_the_limit_is_exact() -> None:
    nineteen, twenty = " ".join("a" * 19), " ".join("a" * 20)  # and EOS
    results = translator().translate([nineteen, twenty, "a"], beam=1)
    assert [result is None for result in results] == [False, True, False]
    pairs = translator().force([nineteen, twenty, "a", ""], ["a", "a", twenty, "a"])
    assert [pair is None for pair in pairs] == [False, True, True, True]


def test_output_length_is_bounded() -> None:
    (result,) = translator().translate(["a b c d e f"], beam=1, max_length=2)
    assert result is not None
    assert len(result.weights) <= 2
    assert len(translator().links(result)) <= 2


def test_location_attention_takes_a_source_of_exactly_its_length() -> None:
    """11 positions are no padded length of the others: 12 columns would be an error."""
    reader = translator("location", max_source=11)
    ten = " ".join("abcdefghab")
    (result,) = reader.translate([ten], beam=2)
    assert result is not None
    (pair,) = reader.force([ten], ["a b"])
    assert pair is not None
    assert pair.weights.shape == (3, 11)


@pytest.mark.parametrize(("kind", "credited"), [("bahdanau", 0), ("luong", 1), ("location", 0)])
def test_links_follow_the_timing_of_the_paper(kind: str, credited: int) -> None:
    """Content scores of Luong's model speak of the word read, the others of the word predicted."""
    reader = translator(kind, max_source=11)
    source, target = "a b c d e", "h g f e"
    (pair,) = reader.force([source], [target])
    assert pair is not None
    rows = pair.weights[credited : credited + 4, :5]
    assert reader.links(pair) == {(int(row.argmax()), j) for j, row in enumerate(rows)}
    np.testing.assert_allclose(reader.word_matrix(pair), rows, rtol=1e-6)
    flipped = ("input", "predicted")[credited]
    assert reader.links(pair, timing=flipped) == {
        (int(row.argmax()), j) for j, row in enumerate(pair.weights[1 - credited :, :5][:4])
    }


def test_force_wants_as_many_of_both() -> None:
    with pytest.raises(ValueError, match="2 sources but 1 targets"):
        translator().force(["a", "b"], ["a"])


def test_padded_lengths_are_few() -> None:
    got = [padded_length(n) for n in (1, 8, 9, 12, 13, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65)]
    assert got == [8, 8, 12, 12, 16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96]
    assert all(padded_length(n) >= n for n in range(1, 2000))
    assert len({padded_length(n) for n in range(1, 513)}) == 13


@pytest.mark.parametrize("split", ["whitespace", "punctuation"])
@pytest.mark.parametrize("kind", ["word", "bpe", "unigram"])
def test_links_and_unknown_words_are_those_of_the_text(kind: str, split: str) -> None:
    text = "l'eau (東京), \"c'est bon\" — 3.5 km."

    def trained(line: str):
        if kind == "word":
            return train_word_tokenizer([line], split=split)
        return train_subword_tokenizer(kind, [line] * 3, vocab_size=61, split=split)

    known, unknowing = trained(text), trained(text.replace("(東京),", "(Paris), (ok),"))
    source, target = known.encode(text), unknowing.encode(text)
    assert UNK in target.ids
    assert UNK not in source.ids
    weights = np.zeros((len(target.ids) + 1, len(source.ids) + 1))
    for row, word in enumerate(target.word_ids):
        same = [s for s, w in enumerate(source.word_ids) if w == word]
        name = [s for s in same if "東" in known.parts(source)[s]]
        weights[row, (name if target.ids[row] == UNK else same)[0]] = 1
    one = copy.copy(translator())
    one.source_tokenizer, one.target_tokenizer = known, unknowing
    one.credits = "predicted"
    line = unknowing.decode(target.ids)
    assert line != text
    spoken = unknowing.decode_words(target.ids)
    assert spoken.words == line.split()
    result = Translation(
        text=line, source=source, target=spoken, score=0.0, log_prob=0.0, weights=weights
    )
    for level in ("word", "token"):
        assert one.links(result, level=level) == {(j, j) for j in range(len(text.split()))}
    assert _replace_unknown(one, result) == text
