"""Histories of items: reading a table of interactions, leave-one-out parts, and their batches."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, final

import numpy as np
import xxhash
from jaxtyping import Bool, Int32, Int64

from attnzoo.data.ahead import rows_of
from attnzoo.data.batching import Batch, Plan
from attnzoo.data.corpus import Report, Splits, add_strings
from attnzoo.data.order import RowOrder
from attnzoo.data.random_numbers import integers
from attnzoo.data.sources import records, text_of
from attnzoo.data.text import array_fingerprint
from attnzoo.errors import UserError
from attnzoo.files import read_json, write_text

# Types that RecBole's atomic files write behind the name of a column.
ATOMIC = re.compile(r":(token|token_seq|float|float_seq)$")
UNKNOWN = -1


class _Kept(TypedDict):
    """Content of ``items.json``."""

    items: list[str]
    titles: list[str]


@dataclasses.dataclass(frozen=True)
class Items:
    """Items that a model knows, by number: their names, and titles for people, or none."""

    names: tuple[str, ...]
    titles: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, names: Sequence[str]) -> Int32[np.ndarray, " n"]:
        """Return the number of each name; -1 for an item that is not known."""
        return np.asarray([self._number.get(name, UNKNOWN) for name in names], np.int32)

    @functools.cached_property
    def _number(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def title(self, number: int) -> str:
        """Return the title of an item, or its name where there is none."""
        return (self.titles[number] if self.titles else "") or self.names[number]

    @classmethod
    def read(cls, path: Path) -> Items:
        """Read the file of items of a run."""
        kept = read_json(path, _Kept)
        if len(kept["titles"]) not in (0, len(kept["items"])):
            raise UserError(
                f"{path}: {len(kept['titles']):,} titles of {len(kept['items']):,} items"
            )
        return cls(tuple(kept["items"]), tuple(kept["titles"]))

    def write(self, path: Path) -> None:
        """Write the file of items of a run."""
        kept = {"items": self.names, "titles": self.titles}
        write_text(path, json.dumps(kept, ensure_ascii=False) + "\n")


@dataclasses.dataclass(frozen=True)
class Histories:
    """Histories of users, oldest item first: user ``i`` has ``ids[starts[i] : ends[i]]``.

    ``ids`` are numbers of ``items``, -1 for one that these do not have.
    """

    items: Items
    ids: Int32[np.ndarray, " interactions"]
    starts: Int64[np.ndarray, " users"]
    ends: Int64[np.ndarray, " users"]

    def __len__(self) -> int:
        return len(self.starts)

    def of(self, user: int) -> Int32[np.ndarray, " length"]:
        """Return the history of one user."""
        return self.ids[self.starts[user] : self.ends[user]]

    def last(self) -> Int32[np.ndarray, " users"]:
        """Return the last item of each history."""
        return self.ids[self.ends - 1]

    def used(self) -> Int32[np.ndarray, " items"]:
        """Return the number of times that each item occurs."""
        ids = np.concatenate([self.of(user) for user in range(len(self))])
        return np.bincount(ids[ids >= 0], minlength=len(self.items)).astype(np.int32)

    def numbered(self, items: Items) -> Histories:
        """Return the same histories in the numbers of other items."""
        number = np.append(items.numbers(self.items.names), np.int32(UNKNOWN))
        return dataclasses.replace(self, items=items, ids=number[self.ids])

    def windows(self, length: int) -> tuple[Histories, Int64[np.ndarray, " windows"]]:
        """Return the histories cut from their end into windows, and the user of each window.

        A window has ``length`` items to predict; its first item is the last of the window before,
        so that each item but a user's first is to be predicted once.
        """
        counts = np.maximum(-(-(self.ends - self.starts - 1) // length), 1)
        user = np.repeat(np.arange(len(self)), counts)
        number = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
        ends = self.ends[user] - number * length
        starts = np.maximum(ends - length - 1, self.starts[user])
        return dataclasses.replace(self, starts=starts, ends=ends), user

    def fingerprint(self) -> str:
        """Return the xxh3_128 of every history, the same in every process."""
        digest = xxhash.xxh3_128()
        add_strings(digest, self.items.names)
        digest.update(array_fingerprint(self.ids, self.starts, self.ends).encode())
        return digest.hexdigest()


def load_interactions(config: Any) -> Splits[Histories]:
    """Load the parts of an ``InteractionsConfig``, leave-one-out (Kang and McAuley 2018, IV-A).

    A history of the training part lacks the last two items of its user, one of the validation part
    the last; in validation and test its last item is to be predicted. Rows without a user, an item
    or a time, and users with fewer than ``config.min_history`` items, are skipped and counted; a
    missing column, a malformed row, and more skipped rows than ``config.max_skipped`` are a
    UserError.
    """
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    rows: list[tuple[int, int, float]] = []
    reports = []
    for path in config.files:
        report = Report(str(path), unit="interactions")
        for place, user, item, time in _interactions(config, path):
            report.read += 1
            missing = next((n for n, x in (("user", user), ("item", item)) if not x), None)
            if missing is not None:
                report.skip(f"no {missing}", place)
            elif not math.isfinite(time):
                report.skip(f"{config.time_column} is neither a number nor a date", place)
            else:
                numbers = users.setdefault(user, len(users)), items.setdefault(item, len(items))
                rows.append((*numbers, time))
        if not report.kept:
            raise UserError(f"{path}: no usable interaction in {report.read:,} rows")
        report.check(config.max_skipped)
        reports.append(report)
    user, item, time = (np.asarray(column) for column in zip(*rows, strict=True))
    order = np.lexsort((time, user))
    counts = np.bincount(user, minlength=len(users))
    ends = np.cumsum(counts)
    kept = np.flatnonzero(counts >= config.min_history)
    few = Report("users of all files", read=len(users), unit="users")
    names = list(users)
    for number in np.flatnonzero(counts < config.min_history).tolist():
        few.skip(f"fewer than {config.min_history} interactions", f"user {names[number]}")
    if not len(kept):
        raise UserError(f"{config.files[0]}: no user has {config.min_history} interactions")
    kept = kept[: config.limit]
    whole = Histories(
        Items(tuple(items), _titles(config, items)),
        item[order].astype(np.int32),
        (ends - counts)[kept],
        ends[kept],
    )
    parts = (dataclasses.replace(whole, ends=whole.ends - last) for last in (2, 1, 0))
    return Splits(*parts, reports=[*reports, few])


def names_in(line: str) -> list[str]:
    """Return the names of items in a line: between tabs if there are any, else between spaces."""
    return [name.strip() for name in line.split("\t")] if "\t" in line else line.split()


def known_items(train: Histories) -> Items:
    """Return the items that occur in the training part, the most frequent first."""
    used = train.used()
    order = [i for i in np.argsort(-used, kind="stable").tolist() if used[i]]
    names, titles = train.items.names, train.items.titles
    return Items(tuple(names[i] for i in order), tuple(titles[i] for i in order if titles))


@final
class HistoryPlan(Plan):
    """Batches of histories, padded on the left, with the next item as the target.

    In training every item but the first is a target; otherwise (``last_only``) the last item
    alone. Items that are not known are left out. An epoch has each row once, in the order of
    ``RowOrder``. Only the latest ``max_length`` items before a target are read.

    Args:
      windows: a row for each window of ``Histories.windows``; otherwise one for each user.
      negatives: number of items to draw for each target, uniformly among those that are not in the
        user's history or the target, as in Kang and McAuley 2018 (sections III-E and IV-D). With
        ``last_only`` they are the same at every call.
    """

    def __init__(
        self,
        histories: Histories,
        batch_size: int,
        max_length: int,
        *,
        negatives: int,
        last_only: bool,
        windows: bool = False,
        seed: int = 0,
    ) -> None:
        self.histories, self.batch_size = histories, batch_size
        self.negatives, self.last_only, self.seed = negatives, last_only, seed
        longest = int((histories.ends - histories.starts).max(initial=2)) - 1
        self.length = min(max_length, max(longest, 1))
        self._rows, self._users = histories, np.arange(len(histories))
        if windows:
            self._rows, self._users = histories.windows(self.length)
        self._order = RowOrder(len(self._rows), batch_size, seed, not last_only)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Return the batch of a step; steps count from 0 through all epochs.

        ``tokens``: int32 ``B T``, 0 at padding. ``valid``: bool ``B T``, false at padding.
        ``targets`` and ``counted``: ``B T`` in training, else ``B``; a target is -1 if it is not
        known. ``negatives``: int32 with one more axis, -1 for a user who has all items.
        ``history``: int32 ``B H``, all earlier items, -1 at padding; not in training. ``rows``:
        int32 ``B``, the number of the user or window, -1 for a padding row.
        """
        return rows_of(self._collate(self._order.step(step), step), rows)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the batches; JSON values, compared on resume."""
        return {
            "data": self.histories.fingerprint(),
            **self._order.fingerprint(),
            "length": self.length,
            "rows": len(self._rows),
            "negatives": self.negatives,
        }

    def _collate(self, chosen: Int64[np.ndarray, " B"], step: int) -> Batch:
        none = np.zeros(0, np.int32)
        whole = [self._rows.of(row) if row >= 0 else none for row in chosen.tolist()]
        if self.last_only:
            before = [_known(items[:-1]) for items in whole]
            last = [items[-1] if len(items) else UNKNOWN for items in whole]
            targets, counted = np.asarray(last, np.int32), chosen >= 0
        else:
            before = [_known(items)[:-1] for items in whole]
            targets, counted = padded([_known(items)[1:] for items in whole], self.length)
        tokens, valid = padded(before, self.length)
        rows = chosen.astype(np.int32)
        batch = {"tokens": tokens, "valid": valid, "targets": targets, "counted": counted}
        if self.last_only:
            longest = int((self.histories.ends - self.histories.starts).max()) - 1
            earlier, real = padded(before, longest)
            batch["history"] = np.where(real, earlier, np.int32(UNKNOWN))
        if self.negatives:
            drawn = np.full((*targets.shape, self.negatives), UNKNOWN, np.int32)
            for row, number in enumerate(chosen.tolist()):
                items = self.histories.of(int(self._users[number])) if number >= 0 else none
                key = (number,) if self.last_only else (step, row)
                numbers = absent(items, len(self.histories.items), drawn[row].size, self.seed, *key)
                drawn[row] = numbers.reshape(drawn[row].shape)
            batch["negatives"] = drawn
        return batch | {"rows": rows}


def _known(items: Int32[np.ndarray, " length"]) -> Int32[np.ndarray, " known"]:
    return items[items >= 0]


def absent(
    items: Int32[np.ndarray, " length"], total: int, count: int, *key: int
) -> Int32[np.ndarray, " count"]:
    """Draw numbers below ``total`` that are not among ``items``, uniformly and with repetition.

    All are -1 if ``items`` has every number. The same key gives the same numbers.
    """
    present = np.unique(items[items >= 0])
    if total == len(present):
        return np.full(count, UNKNOWN, np.int32)
    drawn = integers(total - len(present), (count,), *key, stream=17)
    # The r-th absent number is r and the count of present ones before it.
    before = present - np.arange(len(present))
    return (drawn + np.searchsorted(before, drawn, side="right")).astype(np.int32)


def padded(
    histories: Sequence[np.ndarray], length: int
) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Return the latest ``length`` items of each history, padded on the left, and their mask."""
    tokens = np.zeros((len(histories), length), np.int32)
    valid = np.zeros(tokens.shape, np.bool_)
    for row, items in enumerate(histories):
        latest = items[-length:]
        tokens[row, length - len(latest) :] = latest
        valid[row, length - len(latest) :] = True
    return tokens, valid


def _interactions(config: Any, path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield place, user, item and time of every row; the time is NaN if it cannot be read."""
    columns = [config.user_column, config.item_column]
    columns += [] if config.time_column is None else [config.time_column]
    for place, record in _records(config, path, columns):
        user, item = (text_of(record[name]).strip() for name in columns[:2])
        time = 0.0 if config.time_column is None else _seconds(record[config.time_column])
        yield place, user, item, time


def _records(
    config: Any, path: Path, columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of a table, with the types of RecBole's columns left out of their names."""
    found = records(path, config.format, header=config.header, encoding=config.encoding)
    names: dict[str, str] = {}
    for place, record in found:
        if any(name not in record for name in columns):
            if names.keys() != record.keys():
                names = {name: ATOMIC.sub("", name) for name in record}
            record = {names[name]: value for name, value in record.items()}
            if missing := [name for name in columns if name not in record]:
                raise UserError(f"{place}: no column {missing[0]!r}; it has {', '.join(record)}")
        yield place, record


def _seconds(value: Any) -> float:
    """Return a time as a number; NaN if it is neither a number nor a date of ISO 8601."""
    if not isinstance(value, datetime):
        text = text_of(value).strip()
        try:
            return float(text)
        except ValueError:
            pass
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            return math.nan
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _titles(config: Any, items: Iterable[str]) -> tuple[str, ...]:
    if config.titles is None:
        return ()
    columns = (config.item_column, config.title_column)
    found = {
        text_of(record[columns[0]]).strip(): text_of(record[columns[1]]).strip()
        for _, record in _records(config, config.titles, columns)
    }
    return tuple(found.get(name, "") for name in items)
