"""Settings of the three parts of a data set: files of each, and shares to draw."""

from pathlib import Path
from typing import Annotated, Any

from attnzoo.config.fields import DropRate, NotNegative, Positive, config


@config
class PartsConfig:
    """Files of the three parts; a part that has none can be drawn from the training part."""

    train: tuple[Path, ...] = ()
    """Training files. A path may continue into a zip as if the zip were a folder."""
    validation: tuple[Path, ...] = ()
    """Validation files."""
    test: tuple[Path, ...] = ()
    """Test files."""
    validation_share: Annotated[float, DropRate] = 0.0
    """Share of the training part, drawn at random, to validate on where no validation part is
    given."""
    test_share: Annotated[float, DropRate] = 0.0
    """Share of the training part, drawn at random, to test on where no test part is given."""
    split_seed: Annotated[int, NotNegative] = 0
    """Seed of the random split; independent of the training seed."""
    limit: Annotated[int, Positive] | None = None
    """Use only this many training examples, the first ones; null: all."""

    def __post_init__(self) -> None:
        if not (self.train or self.validation or self.test):
            raise ValueError("at least one of 'train', 'validation' and 'test' is wanted")
        check_shares(self)


def check_shares(data: Any) -> None:
    """Raise a ValueError if the shares to validate and to test on are the whole training part."""
    if data.validation_share + data.test_share >= 1:
        raise ValueError(
            f"validation_share={data.validation_share} and test_share={data.test_share} "
            "leave nothing to train on"
        )
