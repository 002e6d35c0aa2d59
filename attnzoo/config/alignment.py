"""Settings of word aligners."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.fields import ByKind, NotNegative, Positive, Probability, config

LinkRule = Literal[
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
Rule = Literal["product"] | LinkRule


@config
class AlignerConfig:
    """Settings of one word aligner; ``kind`` names its class in ``attnzoo.training.aligners``."""


@config
class HmmConfig(AlignerConfig):
    """Hidden Markov model of word alignment, trained in both directions on the text it aligns."""

    kind: Literal["hmm"] = "hmm"
    lexicon_iterations: Annotated[int, NotNegative] = 5
    """Iterations of IBM model 1, which start the lexicon."""
    iterations: Annotated[int, Positive] = 5
    """Iterations of the hidden Markov model."""
    agreement: bool = True
    """Multiply the probabilities of both directions in training (Liang et al. 2006)."""
    null: Annotated[float, Probability] = 0.2
    """Probability of a word without a partner."""
    prior: Annotated[float, Positive] = 0.01
    """Dirichlet prior of the lexicon: the lower, the fewer translations a word has."""
    prefix: Annotated[int, Positive] | None = None
    """Number of characters of a word that the lexicon knows, in lower case; null: all."""
    max_jump: Annotated[int, Positive] = 10
    """Widest jump with a probability of its own; wider ones share one."""
    max_words: Annotated[int, Positive] = 100
    """Longest side of a pair that is trained on; longer ones are aligned all the same."""
    rule: Rule = "product"
    """Links from the probabilities of both directions."""
    threshold: Annotated[float, Probability] = 0.5
    """Least probability of a link."""


@config
class EflomalConfig(AlignerConfig):
    """The sampler eflomal, trained on the text it aligns (Östling and Tiedemann 2016)."""

    kind: Literal["eflomal"] = "eflomal"
    samplers: Annotated[int, Positive] = 3
    """Number of independent samplers to average."""
    rule: LinkRule = "forward"
    """Combination of the links of both directions."""


@config
class LearnedConfig(AlignerConfig):
    """A word aligner that was trained (``task.kind: word_alignment``)."""

    kind: Literal["learned"] = "learned"
    run: Path
    """Directory of its run."""
    rule: Rule = "product"
    """Links from the probabilities of both directions."""
    threshold: Annotated[float, Probability] = 0.3
    """Least probability of a link."""


Aligner = Annotated[HmmConfig | EflomalConfig | LearnedConfig, ByKind(AlignerConfig)]
"""Union of the aligners that a config can name."""
