"""A [MASK] in a text: the words beside it are the tokens that they are in training."""

from typing import get_args

import pytest

from attnzoo.cli.explain_question import MASK, _with_masks
from attnzoo.config import data
from attnzoo.data.text_tokenizers import build_tokenizer

TEXTS = ["It was a sunny day .", "It was a rainy day ."] * 20
SETTINGS = {"vocab_size": 300, "mask": True}
KINDS = [
    kind
    for kind in get_args(get_args(data.Tokenizer)[0])
    if "mask" in kind.__dataclass_fields__ or kind is data.WordPieceTokenizerConfig
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_words_beside_a_mask_are_those_of_training(kind: type) -> None:
    fields = {k: v for k, v in SETTINGS.items() if k in kind.__dataclass_fields__}
    tokenizer = build_tokenizer(kind(**fields), TEXTS)
    mask = tokenizer.special("mask")
    # A hidden token is a letter where letters or bytes are tokens, else a word.
    by_letter = kind in (data.CharTokenizerConfig, data.ByteTokenizerConfig)
    text = TEXTS[0]
    units = list(text) if by_letter else text.split()
    whole = tokenizer.encode_ids(text)
    assert len(whole) == len(units)  # else the test would not know what is hidden
    for hidden in (0, 3, len(units) - 1):
        shown = [MASK if i == hidden else unit for i, unit in enumerate(units)]
        asked = ("" if by_letter else " ").join(shown)
        want = [mask if i == hidden else token for i, token in enumerate(whole)]
        assert _with_masks(tokenizer, asked, mask) == want
    both = ("" if by_letter else " ").join([units[0], MASK, *units[2:4], MASK, *units[5:]])
    want = [whole[0], mask, *whole[2:4], mask, *whole[5:]]
    assert _with_masks(tokenizer, both, mask) == want


def test_a_piece_within_a_word_stays_within() -> None:
    tokenizer = build_tokenizer(data.WordPieceTokenizerConfig(vocab_size=60), ["sunny day"] * 9)
    mask = tokenizer.special("mask")
    tokens = [tokenizer.tokens[i] for i in _with_masks(tokenizer, f"s{MASK}y day", mask)]
    assert tokens[tokens.index(tokenizer.tokens[mask]) + 1].startswith("##")
