"""A classifier of pictures from two encoders and the names of its classes, without training."""

import dataclasses
from collections.abc import Sequence

from attnzoo.config.tasks import ImageClassificationConfig
from attnzoo.errors import UserError
from attnzoo.tasks.contrastive import ContrastiveTask
from attnzoo.tasks.image_classification import ImageClassificationTask
from attnzoo.tasks.run_file import ImageLabels
from attnzoo.training.folder_config import FolderConfig
from attnzoo.training.opened import Opened


def zero_shot(opened: Opened, labels: Sequence[str]) -> Opened:
    """Return a classifier of pictures whose classes are texts (Radford et al. 2021, section 3.1).

    ``opened`` has two encoders: CLIP, SigLIP, or a run of ``task.kind=contrastive``.

    Raises:
      UserError: another model, or labels that are too few, too long or the same.
    """
    task = opened.task
    if not isinstance(task, ContrastiveTask):
        raise UserError(
            f"{opened.directory.path}: {opened.description}; wanted two encoders, of pictures and "
            "of texts (CLIP, SigLIP, or a run of task.kind=contrastive), to compare with --labels"
        )
    model = task.zero_shot(opened.model, labels)
    config = FolderConfig(
        name=opened.config.name,
        task=ImageClassificationConfig(),
        model=opened.model.config.image,
        data=opened.config.data,
        decoding=opened.config.decoding,
    )
    mean, std = task.pixels.mean, task.pixels.std
    classifier = ImageClassificationTask(config, ImageLabels(tuple(labels), mean, std))
    classifier.preparation = task.preparation
    return dataclasses.replace(opened, config=config, task=classifier, model=model)
