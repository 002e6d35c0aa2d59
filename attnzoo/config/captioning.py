"""Settings of image captioning: its data, and Show, Attend and Tell."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.attention import AdditiveConfig, Attention
from attnzoo.config.fields import (
    DropRate,
    Interval,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    config,
)
from attnzoo.config.image_sources import ImageConvolutionConfig
from attnzoo.config.images import AugmentationConfig
from attnzoo.config.model_config import ModelConfig
from attnzoo.config.parts import check_shares
from attnzoo.config.sources import Source

COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "cross")


@config
class CaptionsConfig:
    """Pictures with one or several captions each."""

    kind: Literal["captions"] = "captions"
    pictures: Path
    """Folder of pictures, or a tar archive of them, compressed or not. A caption names a picture by
    its path in there, or by its file name alone if no other picture has it."""
    train: Annotated[tuple[Path, ...], NotEmpty]
    """Files of the captions to train on, compressed or not."""
    validation: tuple[Path, ...] = ()
    """Files of the captions to validate on."""
    test: tuple[Path, ...] = ()
    """Files of the captions to test on."""
    validation_names: Path | None = None
    """File with the name of one picture per line: those of the training files to validate on."""
    test_names: Path | None = None
    """File with the name of one picture per line: those of the training files to test on."""
    validation_share: Annotated[float, DropRate] = 0.1
    """Share of the training pictures, drawn at random, to validate on where no validation part is
    given."""
    test_share: Annotated[float, DropRate] = 0.0
    """Share of the training pictures, drawn at random, to test on where no test part is given."""
    split_seed: Annotated[int, NotNegative] = 0
    """Seed of the random split; independent of the training seed."""
    format: Literal["csv", "tsv", "jsonl", "parquet", "coco"] = "csv"
    """File format: a table or records with one caption each, or COCO's JSON with `images` and
    `annotations`. tsv has no quoting, csv has. A number behind the name of a picture (`a.jpg#2`) is
    left out, as Flickr8k's own file has it."""
    header: bool = True
    """The first line of tsv and csv files has the column names; otherwise they are "0", "1"."""
    encoding: Annotated[str, NotEmpty] = "utf-8"
    """Encoding of the caption files (latin-1, cp1252, utf-16-le, ...)."""
    picture_column: Annotated[str, NotEmpty] = "image"
    """Column of the picture's name; of COCO's files it is the id."""
    caption_column: Annotated[str, NotEmpty] = "caption"
    """Column of the caption."""
    size: Annotated[int, Positive] = 64
    """Side in pixels of the square that the model reads: the shorter side of a picture is scaled to
    it, and the centre is cut out."""
    channels: Literal[1, 3] = 3
    """Number of channels, grey (1) or colour (3); pictures are converted."""
    language: str = "en"
    """Language of the captions, for scores; ja, ko and zh have their own scoring."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the captions of a file, or of the pictures, that may be left out; more is an
    error."""
    limit: Annotated[int, Positive] | None = None
    """Use only this many training pictures, the first ones; null: all."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of training pictures; a mirrored picture keeps its caption."""

    def __post_init__(self) -> None:
        check_shares(self)
        for part in ("validation", "test"):
            if getattr(self, part) and getattr(self, f"{part}_names"):
                raise ValueError(f"give either '{part}' or '{part}_names', not both")
        check_mixing(self.augmentation)


@config
class ScenesConfig:
    """Made scenes of two objects named in the caption, of decoys, and of noise.

    The right place of every word is known. See `attnzoo.data.scenes`.
    """

    kind: Literal["scenes"] = "scenes"
    side: Annotated[int, Interval(ge=4, le=32)] = 6
    """Rows and columns of cells; a small object fills one cell, a large one two by two."""
    cell: Annotated[int, Interval(ge=4, le=64)] = 8
    """Side of a cell in pixels."""
    colours: Annotated[int, Interval(ge=2, le=len(COLOURS))] = 6
    """Number of colours."""
    decoys: Annotated[int, NotNegative] = 1
    """Number of small grey objects that the caption does not name."""
    noise: Annotated[float, Probability] = 0.3
    """Amplitude of the uniform noise on every pixel, as a share of the range."""
    train: Annotated[int, Positive] = 6000
    """Number of training scenes."""
    validation: Annotated[int, Positive] = 500
    """Number of validation scenes."""
    test: Annotated[int, NotNegative] = 500
    """Number of test scenes."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the random scenes."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of training pictures; operations that move objects make captions wrong."""

    channels = 3
    language = "en"

    @property
    def size(self) -> int:
        """Side of a scene in pixels."""
        return self.side * self.cell

    def __post_init__(self) -> None:
        if self.decoys > self.side**2 // 6:
            raise ValueError(f"decoys={self.decoys}, wanted at most {self.side**2 // 6}")
        check_mixing(self.augmentation)


def check_mixing(augmentation: AugmentationConfig) -> None:
    """Raise a ValueError for augmentation that mixes pictures, whose captions cannot be mixed."""
    for name in ("mixup", "cutmix"):
        if getattr(augmentation, name):
            raise ValueError(f"augmentation.{name} mixes pictures; captions cannot be mixed")


@config
class ShowAttendTellConfig(ModelConfig):
    """Show, Attend and Tell: an LSTM decoder that attends to an image (Xu et al. 2015).

    With `attention.kind=hard` one place is sampled at each step, and the decoder learns by
    REINFORCE; with `none` it reads the mean of the features.
    """

    tasks = ("captioning",)
    kind: Literal["show_attend_tell"] = "show_attend_tell"
    source: Source = ImageConvolutionConfig()
    """Encoder of the images."""
    attention: Attention = AdditiveConfig()
    """Attention of the decoder to the features of the image."""
    hidden: Annotated[int, Positive] = 256
    """Units of the LSTM (n)."""
    embedding: Annotated[int, Positive] = 128
    """Width of the word embeddings (m)."""
    selector: bool = True
    """Multiply each context by a scalar gate beta, computed from the state (section 4.2.1)."""
    penalty: Annotated[float, NotNegative] = 1.0
    """Weight of the doubly stochastic penalty, by which each place is read about once in a caption
    (equation 14); 0: none."""
    dropout: Annotated[float, DropRate] = 0.5
    """Dropout rate of the embeddings, the initial state and the output layer."""
    estimator: Literal["reinforce", "straight_through"] = "reinforce"
    """Gradient of the sampled places of hard attention."""
    reward_weight: Annotated[float, NotNegative] = 0.1
    """Weight of the REINFORCE term, lambda_r in section 4.1; the authors' code divides by 10."""
    entropy_weight: Annotated[float, NotNegative] = 0.002
    """Weight of the entropy of the weights, lambda_e in section 4.1."""
    expected: Annotated[float, Probability] = 0.5
    """Share of the captions in training of which hard attention reads the expected context instead
    of a sampled one (section 4.1)."""

    def __post_init__(self) -> None:
        hard = self.attention.kind == "hard"
        reinforces = hard and self.estimator == "reinforce"
        for name, used in (
            ("estimator", hard),
            ("reward_weight", reinforces),
            ("entropy_weight", reinforces),
            ("expected", reinforces),
        ):
            value = getattr(self, name)
            if not used and value != getattr(ShowAttendTellConfig, name):
                raise ValueError(
                    f"{name}={value} has no effect: wanted attention.kind=hard with "
                    f"estimator=reinforce, or {name}={getattr(ShowAttendTellConfig, name)}"
                )
