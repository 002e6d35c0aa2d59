"""Settings of the cache of token stores for large data sets."""

from pathlib import Path
from typing import Annotated

from attnzoo.config.fields import NotNegative, Positive, config


@config
class CacheConfig:
    """Token stores of large data sets; none of these settings changes a batch."""

    path: Path = Path("~/.cache/attnzoo")
    """Folder of the token stores. Data that was tokenized once is read from there."""
    memory: Annotated[int, NotNegative] = 64_000_000
    """Data whose files have fewer bytes than this are tokenized at every start, in memory. A part
    of the run: the fingerprint of a larger text is made piece by piece."""
    workers: Annotated[int, NotNegative] | None = None
    """Number of processes that tokenize; 0: this one; null: as many as there are cores."""
    tokenizer_sample: Annotated[int, Positive] = 50_000_000
    """Bytes of the training text that a tokenizer is trained on, evenly spread, where there are
    more; only characters are taken from the whole text."""
