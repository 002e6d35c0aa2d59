"""What is learned: which batches, which loss, which scores."""

from typing import Annotated, Literal

from attnzoo.config.fields import DropRate, Kind, Positive, config


@config
class Translation:
    """Target sentences from source sentences, token by token."""

    kind: Literal["translation"] = "translation"


@config
class CausalLM:
    """The next token of a text."""

    kind: Literal["causal_lm"] = "causal_lm"
    context: Annotated[int, Positive] = 256
    """Tokens in a row of a batch."""
    rows: Literal["stream", "packed"] = "stream"
    """How rows are made: windows that begin anywhere in one long text (documents follow each other
    with an end token between), or whole documents packed together, which do not see each other."""


@config
class MaskedLM:
    """Tokens that are masked in a text (Devlin et al. 2019, section 3.1)."""

    kind: Literal["masked_lm"] = "masked_lm"
    context: Annotated[int, Positive] = 128
    """Tokens in a row of a batch, special ones included."""
    share: Annotated[float, DropRate] = 0.15
    """Share of the tokens that are to be told; of these 80 % are masked and 10 % another token."""
    whole_words: bool = False
    """Mask all tokens of a word together."""


@config
class SpanCorruption:
    """Spans that are cut out of a text (Raffel et al. 2020, section 3.1.4)."""

    kind: Literal["span_corruption"] = "span_corruption"
    context: Annotated[int, Positive] = 128
    """Tokens of a row's source at most, sentinels included."""
    share: Annotated[float, DropRate] = 0.15
    """Share of the tokens that are cut out."""
    mean_span: Annotated[float, Positive] = 3.0
    """Mean length of the spans, in tokens."""


@config
class SequenceClassification:
    """The class of a text, or of a pair of texts."""

    kind: Literal["sequence_classification"] = "sequence_classification"


@config
class TokenClassification:
    """The tag of every word of a text."""

    kind: Literal["token_classification"] = "token_classification"


@config
class ImageClassification:
    """The class of an image."""

    kind: Literal["image_classification"] = "image_classification"


Task = Annotated[
    Translation
    | CausalLM
    | MaskedLM
    | SpanCorruption
    | SequenceClassification
    | TokenClassification
    | ImageClassification,
    Kind,
]

PAIRS = ("cldr", "files", "hub", "synthetic")
WANTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "translation": (PAIRS, ("bahdanau", "luong", "transformer", "t5")),
    "causal_lm": (("text",), ("gpt2", "llama")),
    "masked_lm": (("text",), ("bert",)),
    "span_corruption": (("text",), ("t5", "transformer")),
    "sequence_classification": (("labelled_text",), ("bert",)),
    "token_classification": (("tagged_text",), ("bert",)),
    "image_classification": (("images",), ("vit", "resnet")),
}
"""The kinds of data and of models that each task takes."""
