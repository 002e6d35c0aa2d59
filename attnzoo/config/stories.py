"""Settings of questions on stories (bAbI), and of end-to-end memory networks."""

from typing import Annotated, Literal

from attnzoo.config.fields import (
    Interval,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    config,
)
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.parts import PartsConfig


@config
class StoriesConfig(PartsConfig):
    """Questions on stories in files of bAbI's format (Weston et al. 2015), compressed or not.

    Each file is a task. The papers draw a share of 0.1 to validate on.
    """

    kind: Literal["stories"] = "stories"
    encoding: Annotated[str, NotEmpty] = "utf-8"
    """Encoding of the files (latin-1, cp1252, utf-16-le, ...); a byte order mark overrides it."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the questions of a file that may be skipped; more is an error."""


@config
class MadeStoriesConfig:
    """Stories of people who go to places and carry objects, as in bAbI's tasks 1 to 3."""

    kind: Literal["made_stories"] = "made_stories"
    tasks: Annotated[tuple[Annotated[int, Interval(ge=1, le=3)], ...], NotEmpty] = (1, 2, 3)
    """Number of sentences that a question needs: where a person is (1), where an object is (2),
    where an object was before a place (3). With several, questions take turns."""
    sentences: Annotated[int, Interval(ge=4, le=100)] = 12
    """Largest number of sentences of a story."""
    train: Annotated[int, Positive] = 10_000
    """Training questions, one for each story."""
    validation: Annotated[int, Positive] = 1_000
    """Validation questions."""
    test: Annotated[int, Positive] = 1_000
    """Test questions."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the stories; independent of the training seed."""


@config
class MemoryNetworkConfig(ModelConfig):
    """End-to-end memory network (Sukhbaatar et al. 2015, arXiv 1503.08895)."""

    tasks = ("stories",)
    kind: Literal["memory_network"] = "memory_network"
    dim: Annotated[int, Positive] = 20
    """Width of the embeddings (d); the paper has 20, or 50 for all tasks together."""
    hops: Annotated[int, Interval(ge=1, le=20)] = 3
    """Number of readings of the memory (K)."""
    tying: Literal["adjacent", "layer_wise"] = "adjacent"
    """Shared embeddings: the output embedding of a hop is the input embedding of the next one, the
    first also that of the question, the last the output layer (adjacent); or all hops have the same
    two (layer_wise, with a linear map between hops)."""
    memory: Annotated[int, Positive] = 50
    """Number of latest sentences that are remembered."""
    sentence: Literal["position", "bag"] = "position"
    """Encoding of a sentence: sum of its word vectors, weighted by their places (position), or not
    (bag)."""
    temporal: bool = True
    """Add a vector for the age of each sentence to its two embeddings."""
    nonlinear: bool = False
    """Rectify half of the state between hops (the paper does for all tasks together)."""
    init: Annotated[float, Positive] = 0.1
    """Standard deviation of the initial weights."""
