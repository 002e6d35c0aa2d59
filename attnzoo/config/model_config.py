"""Base class of model configs."""

import dataclasses
from typing import Any, ClassVar

from attnzoo.config.fields import config


@config
class ModelConfig:
    """Settings of one architecture; ``kind`` names its class in ``attnzoo.models``."""

    tasks: ClassVar[tuple[str, ...]] = ()
    """Kinds of the tasks that the model can be trained for."""

    @property
    def longest(self) -> int | None:
        """Longest text in tokens; None: any."""
        return getattr(self, "max_length", None)

    @property
    def padding(self) -> int:
        """Padding token of a batch."""
        return getattr(self, "pad_id", 0)

    def with_ids(self, **ids: int) -> "ModelConfig":
        """Return the config with a tokenizer's ids, in the fields that the model has for them.

        ``pad_id``, ``start_id`` and ``eos_id``.
        """
        return self.with_known(**ids)

    def with_known(self, **values: Any) -> "ModelConfig":
        """Return the config with those of the values whose fields it has."""
        names = {field.name for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: v for k, v in values.items() if k in names})

    @property
    def source_slots(self) -> int | None:
        """Longest source of a translator in tokens; None: any."""
        return None

    @property
    def temporary_ids(self) -> int:
        """Number of ids for words of one source that the vocabulary lacks; 0: such are unknown."""
        return 0

    @property
    def one_vocabulary(self) -> bool:
        """True if source and target share one embedding, and so need one tokenizer."""
        return False
