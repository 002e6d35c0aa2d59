"""Task settings: batches, loss and scores."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from attnzoo.config.fields import ByKind, DropRate, NotNegative, Positive, Probability, config
from attnzoo.config.renamed import former_names
from attnzoo.config.teachers import EflomalTeacherConfig, GuidedConfig, Teacher

PAIRS = ("cldr", "files", "hub", "synthetic", "reports")


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
    masked: Annotated[float, NotNegative] = 0.0
    """Weight of translation language modelling, the prediction of masked tokens of both sentences
    from all others (TLM: Dou and Neubig 2021, section 2.2); 0: none."""
    masked_share: Annotated[float, DropRate] = 0.15
    """Share of the tokens that are masked."""
    identification: Annotated[float, NotNegative] = 0.0
    """Weight of parallel sentence identification, which tells the translation from that of another
    sentence (PSI: Dou and Neubig 2021, section 2.2); 0: none."""
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
class SummarisationConfig(TaskConfig):
    """Predict the summaries of texts, token by token; scores are ROUGE."""

    data = PAIRS
    models = ("bahdanau", "luong", "transformer", "t5")
    kind: Literal["summarisation"] = "summarisation"
    coverage_weight: Annotated[float, NotNegative] = 0.0
    """Weight of the coverage loss, which counts how much of the attention goes to tokens that have
    been attended to before (See et al. 2017, eq. 12 and 13; there 1); 0: none."""
    coverage_from: Annotated[int, NotNegative] = 0
    """Number of updates without the coverage loss; the paper adds it to a trained model."""
    guided: ClassVar[None] = None


@config
class DetectionConfig(TaskConfig):
    """Predict the boxes and classes of the objects in a picture (Carion et al. 2020)."""

    data = ("boxes",)
    kind: Literal["detection"] = "detection"
    matching: Literal["device", "host"] = "device"
    """Where predictions are matched to boxes: on the device, or by SciPy on the host."""
    class_weight: Annotated[float, NotNegative] = 1.0
    """Weight of the class in the loss and in the costs of the matching."""
    box_weight: Annotated[float, NotNegative] = 5.0
    """Weight of the L1 distance of boxes, in shares of the picture."""
    giou_weight: Annotated[float, NotNegative] = 2.0
    """Weight of the generalised intersection over union."""
    no_object: Annotated[float, Positive] = 0.1
    """Weight of the class "no object" in the cross-entropy, for `model.scores=softmax`."""
    repeats: Annotated[int, Positive] = 1
    """Number of proposals of the encoder that are matched to each box (Jia et al. 2023, arXiv
    2207.13080); 1: as the queries of the decoder."""
    threshold: Annotated[float, Probability] = 0.5
    """Least probability of the boxes that `predict` writes."""


@config
class QuestionAnsweringConfig(TaskConfig):
    """Find the answer of a question as a span of a document (Devlin et al. 2019, section 4.2)."""

    data = ("questions", "made_questions")
    kind: Literal["question_answering"] = "question_answering"
    stride: Annotated[int, Positive] = 128
    """Distance in tokens between the beginnings of the windows into which a document is cut that
    is longer than training.max_length allows."""
    max_question: Annotated[int, Positive] = 64
    """Largest number of tokens of a question; longer ones are cut at their end, and counted."""
    max_answer: Annotated[int, Positive] = 30
    """Largest number of tokens of a predicted answer."""
    no_answer: bool = False
    """The model may say that there is no answer (section 4.3). Otherwise training leaves out
    questions without one, and every question is answered."""
    threshold: float = 0.0
    """With no_answer: how much better than the best answer the score of having none must be."""


@config
class StoriesTaskConfig(TaskConfig):
    """Answer questions on stories with one word (Sukhbaatar et al. 2015, section 4)."""

    data = ("stories", "made_stories")
    kind: Literal["stories"] = "stories"
    linear_start: Annotated[int, NotNegative] = 0
    """Number of epochs at the beginning of training without the softmax over the memory (section
    4.2: until the validation loss no longer falls)."""
    time_noise: Annotated[float, DropRate] = 0.1
    """Number of empty memories inserted at random into the stories of training, as a share of
    their sentences (section 4.1: 0.1)."""


@config
class CaptioningConfig(TaskConfig):
    """Predict the caption of a picture, token by token."""

    data = ("captions", "scenes")
    source = "image"
    kind: Literal["captioning"] = "captioning"


@config
class ContrastiveConfig(TaskConfig):
    """Tell which caption belongs to which picture (Radford et al. 2021); scores are recalls."""

    data = ("captions", "scenes")
    kind: Literal["contrastive"] = "contrastive"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy of the captions of a batch given a picture and of the pictures given a caption
    (softmax: CLIP, figure 3), or a binary choice for each pair (sigmoid: SigLIP, Zhai et al. 2023,
    equation 1), which wants `model.logit_bias`."""


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
    | SummarisationConfig
    | DetectionConfig
    | QuestionAnsweringConfig
    | StoriesTaskConfig
    | CaptioningConfig
    | ContrastiveConfig
    | SpeechRecognitionConfig,
    ByKind(TaskConfig),
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
