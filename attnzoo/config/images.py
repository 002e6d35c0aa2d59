"""Image data settings: sources of labelled images, and training augmentation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.fields import (
    DropRate,
    Kind,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    config,
)
from attnzoo.config.parts import check_shares
from attnzoo.config.renamed import former_names


@config
class DigitsConfig:
    """Handwritten digits of scikit-learn, 1,797 images of 8 x 8 pixels; there is no test part."""

    kind: Literal["digits"] = "digits"


@config
class IdxConfig:
    """Files in MNIST's format: train-images-idx3-ubyte and three others, with or without .gz."""

    kind: Literal["idx"] = "idx"
    directory: Path
    """Directory with the four files."""


@config
class ImageFolderConfig:
    """One directory per class, within train/, validation/ and test/ if there are such parts."""

    kind: Literal["folder"] = "folder"
    path: Path
    """Directory, or a tar archive of it, compressed or not, or a pattern of several such archives
    (train-*.tar)."""
    channels: Literal[1, 3] = 3
    """Number of channels, grey (1) or colour (3); images are converted."""


@config
class ShardsConfig:
    """Tar or parquet files of each part, for sets of any size.

    The class of an image in a tar is the content of the .cls file beside it (WebDataset), or else
    its directory.
    """

    kind: Literal["shards"] = "shards"
    train: tuple[Path, ...]
    """Files or patterns (train-*.parquet) to train on."""
    validation: tuple[Path, ...] = ()
    """Files or patterns to validate on."""
    test: tuple[Path, ...] = ()
    """Files or patterns to test on."""
    image_field: Annotated[str, NotEmpty] = "image"
    """Parquet column of the encoded images, as `datasets` writes it, or of bytes."""
    label_field: Annotated[str, NotEmpty] = "label"
    """Parquet column of the classes."""
    channels: Literal[1, 3] = 3
    """Number of channels, grey (1) or colour (3); images are converted."""
    resize: Annotated[int, Positive] | None = None
    """Length in pixels to which the shorter side is scaled before the central crop of data.size;
    null: data.size."""


@config
class HubImagesConfig:
    """Data set of the Hugging Face `datasets` library, by name, or one of its local builders."""

    kind: Literal["hub"] = "hub"
    name: Annotated[str, NotEmpty]
    """Name of the data set, or parquet together with `data_files`."""
    config: str | None = None
    """Configuration of the data set, if it has several."""
    revision: str | None = None
    """Commit or tag of the data set, so that a run can be repeated exactly."""
    data_files: dict[str, Path] | None = None
    """Local file of each split, for the builder parquet."""
    train_split: str | None = "train"
    """Split to train on; slices are written as in `datasets`: train[:90%]; null: none."""
    validation_split: str | None = None
    """Split to validate on."""
    test_split: str | None = "test"
    """Split to test on."""
    image_field: Annotated[str, NotEmpty] = "image"
    """Column of the images."""
    label_field: Annotated[str, NotEmpty] = "label"
    """Column of the classes."""
    channels: Literal[1, 3] = 3
    """Number of channels, grey (1) or colour (3); images are converted."""


@config
class PlantedConfig:
    """Synthetic grey images to test explanations: one known patch among decoys decides the class.

    See `attnzoo.data.planted`.
    """

    kind: Literal["planted"] = "planted"
    side: Annotated[int, Positive] = 6
    """Rows and columns of patches."""
    patch: Annotated[int, Positive] = 4
    """Side of a patch in pixels, a multiple of 4."""
    classes: Annotated[int, Positive] = 4
    """Number of classes, at most 8."""
    decoys: Annotated[int, NotNegative] = 6
    """Number of patches that show a class without deciding it."""
    train: Annotated[int, Positive] = 4000
    """Number of training images."""
    validation: Annotated[int, NotNegative] = 500
    """Number of validation images."""
    test: Annotated[int, NotNegative] = 500
    """Number of test images."""
    seed: Annotated[int, NotNegative] = 0
    """Seed of the random images."""

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
class AugmentationConfig:
    """Augmentation of training images, off by default; normalisation is always on.

    The order: resized crop, or padding and crop; flip; RandAugment; normalisation; erasing; mixup
    or CutMix (chosen at random for each batch if both are set).
    """

    flip: bool = False
    """Mirror an image with probability 1/2."""
    pad: Annotated[int, NotNegative] = 0
    """Number of zero pixels to pad on each side before cutting a random window of the old size."""
    crop_scale: Annotated[float, Probability] = 1.0
    """Least share of the area for random resized crops; 1: none."""
    operations: Annotated[int, NotNegative] = 0
    """Number of random operations on each image in RandAugment (Cubuk et al. 2020); 0: none."""
    magnitude: Annotated[float, NotNegative] = 9.0
    """Strength of the operations in RandAugment, from 0 to 10."""
    erase: Annotated[float, Probability] = 0.0
    """Share of the images in which a rectangle is erased (Zhong et al. 2020)."""
    mixup: Annotated[float, NotNegative] = 0.0
    """Parameter alpha of mixup's Beta distribution (Zhang et al. 2018); 0: none."""
    cutmix: Annotated[float, NotNegative] = 0.0
    """Parameter alpha of CutMix's Beta distribution (Yun et al. 2019); 0: none."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale <= 1:
            raise ValueError(f"crop_scale={self.crop_scale}, wanted above 0, at most 1")
        if self.magnitude > 10:
            raise ValueError(f"magnitude={self.magnitude}, wanted 0 to 10")


@config
class ImagesConfig:
    """Labelled images for classification."""

    kind: Literal["images"] = "images"
    source: Annotated[
        DigitsConfig
        | IdxConfig
        | ImageFolderConfig
        | ShardsConfig
        | HubImagesConfig
        | PlantedConfig,
        Kind,
    ] = DigitsConfig()
    """Source of the images."""
    size: Annotated[int, Positive] | None = None
    """Length in pixels to which the shorter side is scaled before the central crop; null: no
    scaling."""
    validation_share: Annotated[float, DropRate] = 0.1
    """Share of the training part, drawn at random, to validate on where no validation part is
    given."""
    test_share: Annotated[float, DropRate] = 0.0
    """Share of the training part, drawn at random, to test on where no test part is given."""
    split_seed: Annotated[int, NotNegative] = 0
    """Seed of the random split; independent of the training seed."""
    limit: Annotated[int, Positive] | None = None
    """Use only this many training images, the first ones; null: all."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of training images."""

    def __post_init__(self) -> None:
        check_shares(self)
        resize = getattr(self.source, "resize", None)
        if resize is not None and resize < (self.size or resize + 1):
            raise ValueError(f"source.resize={resize}, wanted size={self.size} or more")


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
