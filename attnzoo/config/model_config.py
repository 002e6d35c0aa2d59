"""What every model's config has."""

from typing import ClassVar

from attnzoo.config.fields import config


@config
class ModelConfig:
    """Settings of one architecture; ``kind`` names its class in ``attnzoo.models``."""

    tasks: ClassVar[tuple[str, ...]] = ()
    """Kinds of the tasks that it can be trained for."""

    @property
    def longest(self) -> int | None:
        """Longest text in tokens; None: any."""
        return getattr(self, "max_length", None)

    @property
    def padding(self) -> int:
        """The token that fills a batch up."""
        return getattr(self, "pad_id", 0)

    @property
    def source_slots(self) -> int | None:
        """Longest source in tokens, of a translator; None: any."""
        return None
