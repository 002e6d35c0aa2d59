"""Settings of question answering: questions on documents, and bidirectional attention flow."""

from typing import Annotated, Literal

from attnzoo.config.fields import (
    DropRate,
    Interval,
    Layers,
    NotNegative,
    Positive,
    Probability,
    config,
)
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.parts import PartsConfig


@config
class QuestionsConfig(PartsConfig):
    """Questions on documents in files of SQuAD's JSON (1.1 or 2.0), compressed or not.

    Files may be tar archives, compressed or not, and a path may continue into one, with a pattern
    too: `jaquad.tar.xz/*_train_*.json`. Shares are of the articles, the limit is of questions.
    """

    kind: Literal["questions"] = "questions"
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the questions of a file that may be skipped; more is an error."""


@config
class MadeQuestionsConfig:
    """Documents of made sentences on people, with questions whose answers are known."""

    kind: Literal["made_questions"] = "made_questions"
    facts: Annotated[int, Interval(ge=2, le=12)] = 6
    """Number of sentences of a document, each on one property of one person."""
    unanswerable: Annotated[float, Probability] = 0.0
    """Share of questions on a person or property that the document does not mention."""
    train: Annotated[int, Positive] = 4_000
    """Training questions, one for each document."""
    validation: Annotated[int, Positive] = 500
    """Validation questions."""
    test: Annotated[int, Positive] = 500
    """Test questions."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the documents; independent of the training seed."""


@config
class BidafConfig(ModelConfig):
    """Recurrent reader with bidirectional attention flow (Seo et al. 2017, arXiv 1611.01603).

    Its token vectors are trained from the start, in the place of those of GloVe and of characters.
    """

    tasks = ("question_answering",)
    kind: Literal["bidaf"] = "bidaf"
    flow: Literal["both", "context_to_query", "none"] = "both"
    """Attention between document and question: in both directions, from the document to the
    question alone, or none: the question is then its last state in each direction."""
    hidden: Annotated[int, Positive] = 100
    """Cells of each direction of the LSTMs, and width of the token vectors (d)."""
    highway: Annotated[int, Interval(ge=0, le=10)] = 2
    """Number of highway layers on the token vectors."""
    layers: Annotated[int, Layers] = 2
    """Number of bidirectional LSTMs that read the document after the attention."""
    dropout: Annotated[float, DropRate] = 0.2
    """Dropout rate of the inputs of every LSTM and of the output layers."""

    @classmethod
    def paper(cls) -> "BidafConfig":
        """Return the sizes of the paper (section 4)."""
        return cls()
