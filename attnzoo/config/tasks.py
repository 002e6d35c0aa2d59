"""Task settings: batches, loss and scores."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from attnzoo.config.fields import ByKind, DropRate, NotNegative, Positive, config
from attnzoo.config.renamed import former_names
from attnzoo.config.teachers import EflomalTeacherConfig, GuidedConfig, Teacher

PAIRS = ("cldr", "files", "hub", "synthetic")


@config
class TaskConfig:
    """Settings of one task; ``kind`` names its class in ``attnzoo.tasks.TASKS``."""

    data: ClassVar[tuple[str, ...]] = ()
    """Kinds of data that the task accepts."""
    models: ClassVar[tuple[str, ...]] = ()
    """Kinds of models that the task accepts, besides those that list the task in their
    ``tasks``."""
    source: ClassVar[str | None] = None
    """What `model.source` has to read, "image" or "sound"; None: the model reads no such source."""


@config
class TranslationConfig(TaskConfig):
    """Predict target sentences from source sentences, token by token."""

    data = PAIRS
    kind: Literal["translation"] = "translation"
    guided: GuidedConfig | None = None
    """A head of the cross-attention that learns word alignment; null: none."""


@config
class WordAlignmentConfig(TaskConfig):
    """Link the words of sentence pairs, as a teacher does (or the model itself)."""

    data = PAIRS
    kind: Literal["word_alignment"] = "word_alignment"
    teacher: Teacher = EflomalTeacherConfig()
    """Links of the training pairs. Reference links of the data teach only if this says so."""
    consistency: Annotated[float, NotNegative] = 0.0
    """Weight of the agreement of both directions (Dou and Neubig 2021, equation 7); 0: none."""
    restrict: bool = False
    """Count validation errors only between words that have a reference link."""


@config
class CausalLMConfig(TaskConfig):
    """Predict the next token of a text."""

    data = ("text",)
    kind: Literal["causal_lm"] = "causal_lm"
    context: Annotated[int, Positive] = 256
    """Number of tokens in a row of a batch."""
    rows: Literal["stream", "packed"] = "stream"
    """Content of rows: windows at random positions of one long text (stream: documents are joined
    by an end token), or whole documents packed together, without attention between them."""


@config
class MaskedLMConfig(TaskConfig):
    """Predict masked tokens of a text (Devlin et al. 2019, section 3.1)."""

    data = ("text",)
    kind: Literal["masked_lm"] = "masked_lm"
    context: Annotated[int, Positive] = 128
    """Number of tokens in a row of a batch, special tokens included."""
    share: Annotated[float, DropRate] = 0.15
    """Share of the tokens to predict; 80 % of them are masked, and 10 % replaced by another
    token."""
    whole_words: bool = False
    """Mask all tokens of a word together."""


@config
class SpanCorruptionConfig(TaskConfig):
    """Predict spans that are cut out of a text (Raffel et al. 2020, section 3.1.4)."""

    data = ("text",)
    kind: Literal["span_corruption"] = "span_corruption"
    context: Annotated[int, Positive] = 128
    """Largest number of tokens in a row's source, sentinels included."""
    share: Annotated[float, DropRate] = 0.15
    """Share of the tokens that are cut out."""
    mean_span: Annotated[float, Positive] = 3.0
    """Mean length of the spans, in tokens."""


@config
class SequenceClassificationConfig(TaskConfig):
    """Predict the class of a text, or of a pair of texts."""

    data = ("labelled_text",)
    kind: Literal["sequence_classification"] = "sequence_classification"


@config
class TokenClassificationConfig(TaskConfig):
    """Predict the tag of every word of a text."""

    data = ("tagged_text",)
    kind: Literal["token_classification"] = "token_classification"


@config
class ImageClassificationConfig(TaskConfig):
    """Predict the class of an image."""

    data = ("images",)
    kind: Literal["image_classification"] = "image_classification"


@config
class RecommendationConfig(TaskConfig):
    """Predict the next item of a user's history."""

    data = ("interactions",)
    kind: Literal["recommendation"] = "recommendation"
    loss: Literal["softmax", "binary"] = "softmax"
    """Training loss at each item of a history: cross-entropy over all items (softmax), or binary
    cross-entropy of the next item and of one item that is not in the history (Kang and McAuley
    2018, section III-E)."""
    windows: Literal["latest", "all"] = "latest"
    """Rows of the training batches: the latest items of each user, as many as the model reads, as
    in the papers; or whole histories, cut into windows of that length from their end (all)."""
    negatives: Annotated[int, Positive] = 100
    """Number of items, none of them in the history, among which the sampled ranking looks for the
    next one."""


@config
class SpeechRecognitionConfig(TaskConfig):
    """Predict the text of a sound, token by token."""

    data = ("speech", "spliced")
    source = "sound"
    kind: Literal["speech"] = "speech"
    guided: Annotated[float, NotNegative] = 0.0
    """Weight of a training loss that spreads the attention of each token over the known times of
    its word; 0: none. It wants data with times (`spliced`)."""


Task = Annotated[
    TranslationConfig
    | WordAlignmentConfig
    | CausalLMConfig
    | MaskedLMConfig
    | SpanCorruptionConfig
    | SequenceClassificationConfig
    | TokenClassificationConfig
    | ImageClassificationConfig
    | RecommendationConfig
    | SpeechRecognitionConfig,
    ByKind(TaskConfig),
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
