"""The embedded parallel corpus: any two locales of the Unicode CLDR, with true word alignment."""

from attnzoo.data.cldr.build import build_cldr

__all__ = ["build_cldr"]
