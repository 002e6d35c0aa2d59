"""Settings of decomposable attention."""

from typing import Annotated, Literal

from attnzoo.config.fields import DropRate, NotNegative, Positive, config
from attnzoo.config.model_config import ModelConfig


@config
class DecomposableConfig(ModelConfig):
    """Classifier of pairs of texts by decomposable attention (Parikh et al. 2016).

    Its token vectors are trained from the start, in the place of those of GloVe.
    """

    tasks = ("sequence_classification",)
    kind: Literal["decomposable"] = "decomposable"
    max_distance: Annotated[int, NotNegative] | None = None
    """Largest distance with a bias of its own in intra-sentence attention (10 in the paper); null:
    no such attention, and the order of the words has no effect."""
    embedding: Annotated[int, Positive] = 300
    """Width of the token vectors."""
    hidden: Annotated[int, Positive] = 200
    """Width of the projected vectors and of the layers F, G and H."""
    num_classes: Annotated[int, Positive] = 2
    """Number of classes."""
    dropout: Annotated[float, DropRate] = 0.2
    """Dropout rate before each layer of F, G and H."""
