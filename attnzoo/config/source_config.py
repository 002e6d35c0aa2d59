"""Base of the settings of encoders of sources."""

from typing import ClassVar

from attnzoo.config.fields import config


@config
class SourceConfig:
    """Settings of an encoder of sources; ``kind`` names its class in ``attnzoo.models.SOURCES``."""

    reads: ClassVar[str] = ""
    """Sources that it reads: "image" or "sound"."""

    @property
    def slots(self) -> int | None:
        """Longest source in features, for an encoder with a table of positions; None: any."""
        return None
