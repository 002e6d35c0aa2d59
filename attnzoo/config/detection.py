"""Settings of detection: pictures with boxes, their augmentation, and DETR."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.attention import Attention, MultiHeadConfig, SelfAttention
from attnzoo.config.fields import (
    DropRate,
    Interval,
    Kind,
    Layers,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    Remat,
    config,
)
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.parts import check_shares
from attnzoo.config.transformer import Activation


@config
class CocoConfig:
    """Boxes in COCO's JSON format, one file a part, and the pictures that they name."""

    kind: Literal["coco"] = "coco"
    images: Path
    """Folder of the pictures, or a tar archive of it. A name may leave out the folders before
    it."""
    train: Path | None = None
    """JSON file of the training part."""
    validation: Path | None = None
    """JSON file of the validation part."""
    test: Path | None = None
    """JSON file of the test part."""


@config
class VocConfig:
    """Boxes in Pascal VOC's format: JPEGImages/, Annotations/ and lists in ImageSets/Main/.

    Boxes of "difficult" objects are neither learnt nor scored.
    """

    kind: Literal["voc"] = "voc"
    path: Path
    """Folder with these three, or a tar archive of it."""
    train: str | None = "train"
    """Name of the list of the training part."""
    validation: str | None = "val"
    """Name of the list of the validation part; null: none."""
    test: str | None = "test"
    """Name of the list of the test part; null: none."""


@config
class ShapesConfig:
    """Made pictures of circles, squares and triangles, with exact boxes."""

    kind: Literal["shapes"] = "shapes"
    train: Annotated[int, Positive] = 2000
    """Number of training pictures."""
    validation: Annotated[int, NotNegative] = 200
    """Number of validation pictures."""
    test: Annotated[int, NotNegative] = 200
    """Number of test pictures."""
    most: Annotated[int, Positive] = 5
    """Most shapes in a picture; there is at least one."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the pictures; independent of the training seed."""


@config
class BoxAugmentationConfig:
    """Augmentation of training pictures and their boxes, off by default."""

    flip: bool = False
    """Mirror a picture left to right with probability 1/2."""
    flip_vertical: bool = False
    """Mirror a picture top to bottom with probability 1/2."""
    crop_scale: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Least share of the area for random crops, which are scaled to the old size; 1: none. A box
    stays if a quarter of it is in the crop."""
    jitter: Annotated[float, Probability] = 0.0
    """Strength of random changes of brightness, contrast and colour."""


@config
class BoxesConfig:
    """Pictures with labelled boxes."""

    kind: Literal["boxes"] = "boxes"
    source: Annotated[CocoConfig | VocConfig | ShapesConfig, Kind] = ShapesConfig()
    """Source of the pictures and boxes."""
    size: tuple[Annotated[int, Positive], Annotated[int, Positive]] = (64, 64)
    """Height and width in pixels to which every picture is scaled."""
    fit: Literal["letterbox", "stretch"] = "letterbox"
    """Keep the ratio of height to width, with margins that the model does not attend to
    (letterbox), or not (stretch)."""
    labels: Annotated[tuple[str, ...], NotEmpty] | None = None
    """Classes in the order of their numbers; null: those of the training part. Boxes of other
    classes are skipped."""
    validation_share: Annotated[float, DropRate] = 0.0
    """Share of the training part, drawn at random, to validate on where no validation part is
    given."""
    test_share: Annotated[float, DropRate] = 0.0
    """Share of the training part, drawn at random, to test on where no test part is given."""
    split_seed: Annotated[int, NotNegative] = 0
    """Seed of the random split; independent of the training seed."""
    limit: Annotated[int, Positive] | None = None
    """Use only this many training pictures, the first ones; null: all."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the boxes, and of the pictures, that may be skipped; more is an error."""
    augmentation: BoxAugmentationConfig = BoxAugmentationConfig()
    """Augmentation of training pictures."""

    def __post_init__(self) -> None:
        check_shares(self)
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels={list(self.labels)}: a class is named twice")


@config
class DetrConfig(ModelConfig):
    """DETR: object queries read a picture (Carion et al. 2020, arXiv 2005.12872).

    The backbone is a residual network with batch norms, trained from scratch. The defaults of
    `queries`, `prior` and `scores` are those of the paper; the others converge in fewer epochs.
    """

    tasks = ("detection",)
    kind: Literal["detr"] = "detr"
    attention: SelfAttention = MultiHeadConfig(num_heads=8)
    """Self-attention of the encoder and of the queries."""
    cross_attention: Attention = MultiHeadConfig(num_heads=8)
    """Cross-attention from the queries to the picture."""
    channels: Literal[1, 3] = 3
    """Channels of the picture; pictures are converted."""
    width: Annotated[int, Positive] = 64
    """Channels of the backbone's first convolution; each stage doubles them."""
    stages: Annotated[int, Positive] = 4
    """Stages of residual blocks. The first convolution and each stage halve height and width: a
    cell of the features is 2 ** (stages + 1) pixels wide."""
    blocks: Annotated[int, Positive] = 2
    """Residual blocks of each stage."""
    dim: Annotated[int, Positive] = 256
    """Width of the states (E), divisible by 4."""
    hidden: Annotated[int, Positive] = 2048
    """Hidden units of the feed-forward layers (F)."""
    encoder_layers: Annotated[int, Layers] = 6
    """Number of encoder blocks."""
    decoder_layers: Annotated[int, Layers] = 6
    """Number of decoder blocks; each predicts classes and boxes."""
    num_queries: Annotated[int, Positive] = 100
    """Number of object queries: the most boxes that can be found in a picture."""
    queries: Literal["learned", "anchors", "proposals"] = "learned"
    """Object queries: learned vectors (the paper); learned boxes, which every decoder block moves
    (anchors: DAB-DETR, Liu et al. 2022, arXiv 2201.12329); or the boxes that the encoder proposes
    at its best cells, with the states of these cells (proposals: the two stages of Zhu et al. 2021,
    arXiv 2010.04159, section 4.2, and Yao et al. 2021, arXiv 2104.01318)."""
    prior: Literal["none", "gaussian"] = "none"
    """Added to the scores of the cross-attention: nothing, or a Gaussian around the box of the
    query (gaussian: Gao et al. 2021, arXiv 2101.07448), which needs other queries than learned
    ones."""
    scores: Literal["softmax", "sigmoid"] = "softmax"
    """Class probabilities: softmax with a class "no object" and its cross-entropy, or a sigmoid for
    each class and the focal loss (Lin et al. 2017, arXiv 1708.02002)."""
    norm: Literal["post", "pre"] = "post"
    """Place of the norms: after each residual sum (post, as in the paper), or before each
    branch."""
    norm_eps: Annotated[float, Positive] = 1e-5
    """Epsilon added to the variance in the norms."""
    activation: Activation = "relu"
    """Activation of the feed-forward layers."""
    use_bias: bool = True
    """Projections of attention have biases."""
    dropout: Annotated[float, DropRate] = 0.1
    """Dropout rate of every branch's output."""
    attention_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the attention weights."""
    activation_dropout: Annotated[float, DropRate] = 0.0
    """Dropout rate of the feed-forward layers' hidden units."""
    remat: Remat = "none"
    """Rematerialisation of the encoder, which saves memory in the backward pass: none, whole blocks
    (full), all but the products with weights (dots), or the same with these products in host memory
    (offload)."""

    @property
    def cell(self) -> int:
        """Height and width in pixels of a cell of the features."""
        return 2 ** (self.stages + 1)

    @classmethod
    def paper(cls) -> "DetrConfig":
        """Return the sizes of the paper's Transformer; the backbone is not its ResNet-50."""
        return cls()

    @classmethod
    def small(cls) -> "DetrConfig":
        """Return a model for pictures of about 200 pixels and minutes on a CPU."""
        heads = MultiHeadConfig(num_heads=4)
        return cls(
            attention=heads,
            cross_attention=heads,
            width=24,
            stages=2,
            dim=96,
            hidden=192,
            encoder_layers=1,
            decoder_layers=2,
            num_queries=40,
            queries="proposals",
            prior="gaussian",
            scores="sigmoid",
            norm="pre",
            dropout=0.0,
        )

    def __post_init__(self) -> None:
        if self.dim % 4:
            raise ValueError(f"dim={self.dim} is not divisible by 4: sines of rows and columns")
        if self.prior != "none" and self.queries == "learned":
            raise ValueError(
                f"prior={self.prior} needs the box of a query before it reads the picture: wanted "
                "queries=anchors or proposals"
            )
