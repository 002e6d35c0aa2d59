"""Erasing source words: a copying translator by hand, and that blanks change nothing else."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.config.model import BahdanauConfig
from attnzoo.data.tokenizers import Encoding, Tokenizer, train_word_tokenizer
from attnzoo.layers.embedding import Embedding
from attnzoo.models import TRANSLATORS
from attnzoo.models.model import Model, TranslationModel
from attnzoo.tasks.erasure import deletion_areas, erase_words, with_blank
from attnzoo.tasks.translation import Translator

TOKENIZER = train_word_tokenizer(["a b c d e f g"])
V = TOKENIZER.vocab_size
SHARP = 3.0


class Copier(TranslationModel):
    """Says the source word by word, or its words backwards; its table is SHARP times I."""

    def __init__(self, *, embed: bool, backwards: bool = False):
        table = SHARP * jnp.eye(V)
        if embed:
            self.source_embedding: Any = nnx.Embed(V, V, rngs=nnx.Rngs(0))
            self.source_embedding.embedding[...] = table
        else:
            self.source_embedding = Embedding(V, V, rngs=nnx.Rngs(0))
            self.source_embedding.table[...] = table
        self.backwards = backwards

    def __call__(self, source, target, *, return_weights=False):
        T, S = target.shape[1], source.shape[1]
        table = self.source_embedding
        # Past its end an ``nnx.Embed`` reads NaN.
        vectors = table.embedding[...][source] if isinstance(table, nnx.Embed) else table(source)
        words = jnp.sum(source > 2, axis=1, keepdims=True)
        steps = jnp.arange(T, dtype=jnp.int32)[None]
        at = words - 1 - steps if self.backwards else jnp.broadcast_to(steps, (len(source), T))
        at = jnp.where((at < 0) | (at >= words), words, at)  # EOS at last
        logits = jnp.take_along_axis(vectors, at[..., None], axis=1)
        return (logits, jnp.full((len(source), 1, T, S), 1 / S)) if return_weights else logits


def translator(model: nnx.Module) -> Translator:
    return Translator(model, TOKENIZER, TOKENIZER, batch_size=3, max_source=12)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum())


@pytest.mark.parametrize("embed", [True, False])
def test_a_copier_needs_the_word_it_copies(embed: bool) -> None:
    one = log_softmax(SHARP * np.eye(V)[0])[0]  # of the right word
    # A mean row is SHARP / V everywhere: a uniform distribution, as is that of zeros.
    fall = one + np.log(V)
    reader = translator(Copier(embed=embed))
    for fill in ("mean", "zero"):
        found = erase_words(reader, ["a b c d", "e f"], ["a b c d", "e f"], fill=fill)
        for result, size in zip(found, (4, 2), strict=True):
            want = np.zeros((size + 1, size + 1))
            want[:size, :size] = fall * np.eye(size)
            np.testing.assert_allclose(result.weights, want, atol=1e-5)
            np.testing.assert_allclose(result.log_probs, np.full(size + 1, one), atol=1e-5)
            assert reader.links(result, timing="predicted") == {(i, i) for i in range(size)}
    back = translator(Copier(embed=embed, backwards=True))
    (result,) = erase_words(back, ["a b c"], ["c b a"])
    assert back.links(result, timing="predicted") == {(2, 0), (1, 1), (0, 2)}


def test_unknown_words_as_blanks_and_words_that_no_erasure_hurts() -> None:
    reader = translator(Copier(embed=True))
    # "x" is UNK, so that its erasure as UNK changes nothing; and nothing makes "g" likelier.
    (result,) = erase_words(reader, ["a x"], ["a g"], fill="unk")
    assert result.weights[0, 0] == pytest.approx(SHARP, abs=1e-5)
    assert (result.weights[1:] == 0).all()
    assert (result.weights[:, 1:] == 0).all()
    assert reader.links(result, timing="predicted") == {(0, 0)}


def test_words_of_several_tokens_go_together() -> None:
    class Pairs(Tokenizer):
        """Two letters a word."""

        def __init__(self) -> None:
            pass

        def encode(self, text: str) -> Encoding:
            words = text.split()
            ids = [i for word in words for i in TOKENIZER.encode(" ".join(word)).ids]
            return Encoding(ids, [i // 2 for i in range(len(ids))], words)

    reader: Any = translator(Copier(embed=False))
    reader.source_tokenizer = reader.target_tokenizer = Pairs()
    (result,) = erase_words(reader, ["ab cd"], ["ab cd"])
    fall = log_softmax(SHARP * np.eye(V)[0])[0] + np.log(V)
    want = np.zeros((5, 5))
    want[[0, 1], 0] = want[[2, 3], 2] = fall
    np.testing.assert_allclose(result.weights, want, atol=1e-5)
    assert reader.links(result, timing="predicted") == {(0, 0), (1, 1)}
    np.testing.assert_allclose(
        reader.word_matrix(result, timing="predicted"), fall * np.eye(2), atol=1e-5
    )


def test_what_is_not_erased_is_read_as_before() -> None:
    config = BahdanauConfig(hidden=5, embedding=3, maxout=2, dropout=0.0)
    model = TRANSLATORS["bahdanau"](config, V, V, rngs=nnx.Rngs(3))
    reader = translator(model)
    sources, targets = ["a b", "", "c d e f", " ".join("a" * 12)], ["b", "a", "d c", "a"]
    found = erase_words(reader, sources, targets, fill="mean")
    plain = reader.force(sources, targets)
    assert [result is None for result in found] == [False, True, False, True]
    for a, b in zip(found, plain, strict=True):
        if a is not None and b is not None:
            np.testing.assert_allclose(a.log_probs, b.log_probs, rtol=1e-5)
            assert a.weights.shape == b.weights.shape
    # Once more by hand, without the machinery of batches.
    copy, blank = with_blank(model, "mean")
    table = model.source_embedding.embedding[...]
    np.testing.assert_allclose(copy.source_embedding.embedding[V], table.mean(axis=0), rtol=1e-5)
    assert model.source_embedding.embedding.shape == (V, 3)
    ids = [TOKENIZER.encode(text).ids for text in ("a b", "b")]
    source, target = jnp.int32([[*ids[0], 2]]), jnp.int32([[1, *ids[1], 2]])
    erased = jnp.int32([[ids[0][0], blank, 2]])
    both = [
        log_softmax(np.asarray(copy(s, target[:, :-1])[0, 0], np.float64))[ids[1][0]]
        for s in (source, erased)
    ]
    result = found[0]
    assert result is not None
    assert result.weights[0, 1] == pytest.approx(max(both[0] - both[1], 0), abs=1e-5)


def test_a_matrix_that_names_the_copied_word_has_the_smallest_area() -> None:
    reader = translator(Copier(embed=True))
    right = np.exp(SHARP) / (np.exp(SHARP) + V - 1)
    matrices = {"true": np.eye(3), "inverse": 1 - np.eye(3), "even": np.ones((3, 3))}
    areas = deletion_areas(reader, "a b c", "a b c", matrices)
    # The probability falls to 1/V when the word goes: with the 1st, 3rd, and (first of equals
    # first) 1st, 2nd and 3rd step. Areas by trapezoids of a third each.
    at = [right / 6 + 5 / 6 / V, right * 3 / 6 + 3 / 6 / V, right * 5 / 6 + 1 / 6 / V]
    np.testing.assert_allclose(areas["true"], [at[0]] * 3, rtol=1e-5)
    np.testing.assert_allclose(areas["inverse"], [at[2]] * 3, rtol=1e-5)
    np.testing.assert_allclose(areas["even"], at, rtol=1e-5)
    # Two steps: after the first, half of the words, rounded to 2, are gone.
    two = deletion_areas(reader, "a b c", "a b c", {"true": np.eye(3)}, steps=2)
    width = 2 / 3
    np.testing.assert_allclose(
        two["true"], [right * width / 2 + (1 - width / 2) / V] * 3, rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"x: shape \(2, 3\), wanted \(3, 3\)"):
        deletion_areas(reader, "a b c", "a b c", {"x": np.zeros((2, 3))})
    long = " ".join("a" * 12)
    with pytest.raises(ValueError, match="empty or too long"):
        deletion_areas(reader, long, "a", {"x": np.zeros((1, 12))})


def test_what_cannot_be_erased_is_named() -> None:
    reader = translator(Copier(embed=True))
    with pytest.raises(ValueError, match="2 sources but 1 targets"):
        erase_words(reader, ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="fill='blur' is none of zero, mean, unk"):
        erase_words(reader, ["a"], ["a"], fill="blur")

    class Nothing(Model):
        pass

    with pytest.raises(NotImplementedError, match="Nothing embeds no source"):
        with_blank(Nothing())
