"""Where labelled images come from, and how they are varied during training."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.fields import (
    DropRate,
    Kind,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    config,
)


@config
class Digits:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels; they have no test part."""

    kind: Literal["digits"] = "digits"


@config
class Idx:
    """MNIST's files, as Fashion-MNIST has them: train-images-idx3-ubyte, perhaps with .gz, ..."""

    kind: Literal["idx"] = "idx"
    directory: Path
    """The directory with the four files."""


@config
class ImageFolder:
    """One directory a class, within train/, validation/ and test/ where there are such parts."""

    kind: Literal["folder"] = "folder"
    path: Path
    """The directory, or a tar of it, compressed or not."""
    channels: Literal[1, 3] = 3
    """Grey or colour; the images are converted."""


@config
class HubImages:
    """A data set by name through the Hugging Face `datasets` library, or its local builders."""

    kind: Literal["hub"] = "hub"
    name: Annotated[str, NotEmpty]
    """Name of the data set, or parquet together with `data_files`."""
    config: str | None = None
    """Configuration of the data set, where it has several."""
    revision: str | None = None
    """Commit or tag of the data set, for a run that is to be repeated exactly."""
    data_files: dict[str, Path] | None = None
    """Local file of each split, for the builder parquet."""
    train_split: str | None = "train"
    """Split to train on, slices as `datasets` writes them: train[:90%]; null: none."""
    validation_split: str | None = None
    """Split to validate on."""
    test_split: str | None = "test"
    """Split to test on."""
    image_field: Annotated[str, NotEmpty] = "image"
    """Column of the images."""
    label_field: Annotated[str, NotEmpty] = "label"
    """Column of the classes."""
    channels: Literal[1, 3] = 3
    """Grey or colour; the images are converted."""


@config
class Planted:
    """Made-up grey images whose class is decided by one known patch among decoys, to test
    explanations: `attnzoo.data.planted`."""

    kind: Literal["planted"] = "planted"
    side: Annotated[int, Positive] = 6
    """Rows and columns of patches."""
    patch: Annotated[int, Positive] = 4
    """Side of a patch in pixels, a multiple of 4."""
    classes: Annotated[int, Positive] = 4
    """Classes, at most 8."""
    decoys: Annotated[int, NotNegative] = 6
    """Patches that show a class without deciding it."""
    train: Annotated[int, Positive] = 4000
    """Images to train on."""
    validation: Annotated[int, NotNegative] = 500
    """Images to validate on."""
    test: Annotated[int, NotNegative] = 500
    """Images to test on."""
    seed: Annotated[int, NotNegative] = 0
    """Which images."""

    def __post_init__(self) -> None:
        if self.patch % 4:
            raise ValueError(f"patch={self.patch} is not divisible by 4, the side of a mark")
        if self.classes > 8:
            raise ValueError(f"classes={self.classes}; there are marks of 8")
        if 1 + self.decoys > self.side**2:
            raise ValueError(
                f"decoys={self.decoys} and the planted patch do not fit into {self.side**2} patches"
            )


@config
class Augmentation:
    """How training images are varied; everything off by default. Only normalisation is always on.

    The order: resized crop, or padding and crop; flip; RandAugment; normalisation; erasing; mixup
    or CutMix (one of them, by a coin, where both are asked for).
    """

    flip: bool = False
    """Mirror every second image."""
    pad: Annotated[int, NotNegative] = 0
    """Pad by so many pixels of zero and cut a random window of the old size."""
    crop_scale: Annotated[float, Probability] = 1.0
    """Cut a random window of at least this share of the area and resize it; 1: none."""
    operations: Annotated[int, NotNegative] = 0
    """RandAugment: so many random operations on each image (Cubuk et al. 2020)."""
    magnitude: Annotated[float, NotNegative] = 9.0
    """RandAugment: strength of the operations, from 0 to 10."""
    erase: Annotated[float, Probability] = 0.0
    """Share of the images in which a rectangle is erased (Zhong et al. 2020)."""
    mixup: Annotated[float, NotNegative] = 0.0
    """alpha of mixup's Beta distribution (Zhang et al. 2018); 0: none."""
    cutmix: Annotated[float, NotNegative] = 0.0
    """alpha of CutMix's Beta distribution (Yun et al. 2019); 0: none."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale <= 1:
            raise ValueError(f"crop_scale={self.crop_scale}, wanted above 0, at most 1")
        if self.magnitude > 10:
            raise ValueError(f"magnitude={self.magnitude}, wanted 0 to 10")


@config
class Images:
    """Labelled images for classification."""

    kind: Literal["images"] = "images"
    source: Annotated[Digits | Idx | ImageFolder | HubImages | Planted, Kind] = Digits()
    """Where the images come from."""
    size: Annotated[int, Positive] | None = None
    """Scale the shorter side to so many pixels and cut the middle; null: the size they have."""
    validation_share: Annotated[float, DropRate] = 0.1
    """Share of the training part, drawn at random, to validate on where no part is given."""
    test_share: Annotated[float, DropRate] = 0.0
    """The same for testing."""
    split_seed: Annotated[int, NotNegative] = 0
    """Which images are drawn; independent of the training seed."""
    limit: Annotated[int, Positive] | None = None
    """Use only the first so many training images; null: all."""
    augmentation: Augmentation = Augmentation()
    """How the training images are varied."""

    def __post_init__(self) -> None:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share={self.validation_share} and test_share={self.test_share} "
                "leave nothing to train on"
            )
