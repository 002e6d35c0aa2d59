"""Data settings: histories of items, from a table of interactions of users with items."""

from pathlib import Path
from typing import Annotated, Literal

from attnzoo.config.fields import Interval, NotEmpty, Positive, Probability, config


@config
class InteractionsConfig:
    """Table with one interaction per row: a user, an item and a time.

    The last item of each user is the test part, the last but one the validation part, all earlier
    ones the training part (leave-one-out).
    """

    kind: Literal["interactions"] = "interactions"
    files: Annotated[tuple[Path, ...], NotEmpty]
    """Files of the table, compressed or not. A path may continue into a zip as if the zip were a
    folder."""
    format: Literal["tsv", "csv", "jsonl", "parquet"] = "tsv"
    """File format. tsv has no quoting, csv has."""
    header: bool = True
    """The first line of tsv and csv files has the column names; otherwise they are "0", "1", ...
    The type in a name of RecBole's atomic files (`user_id:token`) may be left out below."""
    encoding: Annotated[str, NotEmpty] = "utf-8"
    """Encoding of the files (latin-1, cp1252, utf-16-le, ...); a byte order mark overrides it."""
    user_column: Annotated[str, NotEmpty] = "user_id"
    """Column of the user."""
    item_column: Annotated[str, NotEmpty] = "item_id"
    """Column of the item."""
    time_column: str | None = "timestamp"
    """Column of the time, a number or a date of ISO 8601, by which each user's interactions are
    sorted; equal times keep the order of the rows. null: the order of the rows."""
    titles: Path | None = None
    """Table of the same format with the title of each item in `title_column`, for people."""
    title_column: Annotated[str, NotEmpty] = "title"
    """Column of the title."""
    min_history: Annotated[int, Interval(ge=3)] = 3
    """Fewest interactions of a user; users with fewer are left out, counted and reported."""
    max_skipped: Annotated[float, Probability] = 0.01
    """Largest share of the rows of a file that may be skipped; more is an error."""
    limit: Annotated[int, Positive] | None = None
    """Use only this many users, the first ones; null: all."""
