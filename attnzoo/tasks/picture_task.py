"""Tasks whose classes are those of pictures, and what their runs keep of the training data."""

import dataclasses
import types
from pathlib import Path
from typing import Any

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.tasks.run_file import (
    IMAGE_LABELS,
    PIXELS,
    ImageLabels,
    class_names_of,
    is_run,
    start_of,
)
from attnzoo.tasks.task import Task


class PictureTask(Task):
    """Base of tasks on pictures, whose runs keep class names and statistics of the pixels."""

    predicts = "pictures"
    files = types.MappingProxyType({"labels": IMAGE_LABELS})

    def __init__(self, config: ExperimentConfig, labels: ImageLabels):
        super().__init__(config)
        self.labels = labels
        self.names, self.mean, self.std = labels.names, labels.mean, labels.std
        self.sizes = [0, 0, 0]
        self.data: Any = config.data

    @classmethod
    def take_over(cls, config: ExperimentConfig) -> dict[str, Any]:
        """Return the pixel statistics that the weights of ``config.start_from`` were trained on."""
        start = start_of(config)
        if start is None or not is_run(start):
            return {}
        file = PIXELS if (start / PIXELS.name).exists() else IMAGE_LABELS  # two encoders, or one
        return {"labels": file.read(start / file.name)}

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Take the classes of the data; compute the pixel statistics, unless they are known."""
        if known:
            return {"labels": dataclasses.replace(known["labels"], names=data.train.names)}
        return {"labels": ImageLabels(data.train.names, *cls.statistics(data.train))}

    @classmethod
    def statistics(cls, pictures: Any) -> tuple[Any, Any]:
        """Return the mean and the deviation of each channel of the training pictures."""
        raise NotImplementedError(f"{cls.__name__}.statistics")

    def new_head(self, path: Path) -> bool:
        """Return whether the classes of ``path`` are others, or in another order."""
        return self.names != class_names_of(path)
