"""What is learned: which batches, which loss, which scores."""

from typing import Annotated, ClassVar, Literal

from attnzoo.config.fields import ByKind, DropRate, Positive, config

PAIRS = ("cldr", "files", "hub", "synthetic")


@config
class TaskConfig:
    """Settings of one task; ``kind`` names its class in ``attnzoo.tasks.TASKS``."""

    data: ClassVar[tuple[str, ...]] = ()
    """Kinds of the data that it is learned from."""
    models: ClassVar[tuple[str, ...]] = ()
    """Kinds of models that it takes beside those that name it in their ``tasks``."""


@config
class Translation(TaskConfig):
    """Target sentences from source sentences, token by token."""

    data = PAIRS
    kind: Literal["translation"] = "translation"


@config
class CausalLM(TaskConfig):
    """The next token of a text."""

    data = ("text",)
    kind: Literal["causal_lm"] = "causal_lm"
    context: Annotated[int, Positive] = 256
    """Tokens in a row of a batch."""
    rows: Literal["stream", "packed"] = "stream"
    """How rows are made: windows that begin anywhere in one long text (documents follow each other
    with an end token between), or whole documents packed together, which do not see each other."""


@config
class MaskedLM(TaskConfig):
    """Tokens that are masked in a text (Devlin et al. 2019, section 3.1)."""

    data = ("text",)
    kind: Literal["masked_lm"] = "masked_lm"
    context: Annotated[int, Positive] = 128
    """Tokens in a row of a batch, special ones included."""
    share: Annotated[float, DropRate] = 0.15
    """Share of the tokens that are to be told; of these 80 % are masked and 10 % another token."""
    whole_words: bool = False
    """Mask all tokens of a word together."""


@config
class SpanCorruption(TaskConfig):
    """Spans that are cut out of a text (Raffel et al. 2020, section 3.1.4)."""

    data = ("text",)
    kind: Literal["span_corruption"] = "span_corruption"
    context: Annotated[int, Positive] = 128
    """Tokens of a row's source at most, sentinels included."""
    share: Annotated[float, DropRate] = 0.15
    """Share of the tokens that are cut out."""
    mean_span: Annotated[float, Positive] = 3.0
    """Mean length of the spans, in tokens."""


@config
class SequenceClassification(TaskConfig):
    """The class of a text, or of a pair of texts."""

    data = ("labelled_text",)
    kind: Literal["sequence_classification"] = "sequence_classification"


@config
class TokenClassification(TaskConfig):
    """The tag of every word of a text."""

    data = ("tagged_text",)
    kind: Literal["token_classification"] = "token_classification"


@config
class ImageClassification(TaskConfig):
    """The class of an image."""

    data = ("images",)
    kind: Literal["image_classification"] = "image_classification"


Task = Annotated[
    Translation
    | CausalLM
    | MaskedLM
    | SpanCorruption
    | SequenceClassification
    | TokenClassification
    | ImageClassification,
    ByKind(TaskConfig),
]
