"""The embedded parallel corpus: any two locales of the Unicode CLDR, with true word alignment."""

from attnzoo.data.cldr.build import build_cldr
from attnzoo.data.cldr.describe import Description, describe

__all__ = ["Description", "build_cldr", "describe"]
