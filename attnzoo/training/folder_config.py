"""Settings of a folder of pretrained weights, by the names that they have for a run."""

import dataclasses
from typing import Any

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.training import TrainingConfig

NO_TRAINING = TrainingConfig(steps=1)


@dataclasses.dataclass(frozen=True)
class NoTaskConfig:
    """Stand-in for the task of a model without an output layer."""

    kind: str = "none"


@dataclasses.dataclass(frozen=True)
class FolderData:
    """Stand-in for the data of a folder, which has none: the languages of a translator."""

    languages: tuple[str, str] = ("", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderConfig(ExperimentConfig):
    """Settings of a folder, by the names that they have for a run; there was no training."""

    task: Any
    model: Any
    data: Any = FolderData()
    training: TrainingConfig = NO_TRAINING

    def __post_init__(self) -> None:
        """Leave unchecked which task goes with which data."""
