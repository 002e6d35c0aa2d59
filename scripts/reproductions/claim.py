"""Claims of papers: their measurement, published numbers, and criterion, fixed before.

A claim's numbers have names, "setting" or "curve/x" ("additive/30" is the curve "additive" at
x = 30). Each is measured once for every seed; a number that comes with an interval of its own, such
as that of a bootstrap over sentences, is a triple (value, low, high).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from matplotlib.figure import Figure

Measured = float | tuple[float, float, float]
"""A number, or a number with the ends of its 95 % interval."""

Outcome = Literal["holds", "undecided", "contradicted"]
T = TypeVar("T")
T_95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Quantile .975 of Student's t by degrees of freedom."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Seed, size and folders of one measurement of a claim.

    Attributes:
        seed: seed of weights, data order and made data.
        quick: measure a small version in seconds, whose numbers are never reported.
        folder: where its trainings keep their run directories, to be resumed.
        data: folder of the corpora, as README of the data sets names them.
    """

    seed: int
    quick: bool
    folder: Path
    data: Path

    def pick(self, full: T, quick: T) -> T:
        """Return one of two sizes."""
        return quick if self.quick else full


@dataclasses.dataclass(frozen=True)
class Results:
    """The numbers of all seeds that were measured."""

    seeds: Mapping[int, Mapping[str, Measured]]

    @property
    def names(self) -> list[str]:
        """Names of the numbers, in the order in which the first seed gave them."""
        return list(next(iter(self.seeds.values()), {}))

    def values(self, name: str) -> list[float]:
        """Return a number for every seed."""
        return [_value(numbers[name]) for numbers in self.seeds.values()]

    def mean(self, name: str) -> float:
        """Return the mean over seeds."""
        return statistics.fmean(self.values(name))

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval: of the mean over seeds (t), or the number's own with one seed.

        NaN where there is neither.
        """
        measured = [numbers[name] for numbers in self.seeds.values()]
        if len(measured) == 1 and isinstance(measured[0], Sequence):
            return measured[0][1], measured[0][2]
        return _t_interval(self.values(name))

    def difference(self, first: str, second: str, times: float = 1.0) -> tuple[float, float, float]:
        """Return the mean of first - times * second, paired by seed, with its 95 % interval.

        With one seed the ends come from the two intervals, taken as independent.
        """
        paired = [a - times * b for a, b in zip(self.values(first), self.values(second))]
        mean = statistics.fmean(paired)
        if len(paired) > 1:
            return mean, *_t_interval(paired)
        (low, high), (other_low, other_high) = self.interval(first), self.interval(second)
        below = math.hypot(self.mean(first) - low, times * (other_high - self.mean(second)))
        above = math.hypot(high - self.mean(first), times * (self.mean(second) - other_low))
        return mean, mean - below, mean + above

    def curves(self) -> dict[str, list[tuple[float, str]]]:
        """Return the numbers named "curve/x": by curve, x and the number's name."""
        found: dict[str, list[tuple[float, str]]] = {}
        for name in self.names:
            curve, slash, x = name.rpartition("/")
            if slash:
                found.setdefault(curve, []).append((float(x), name))
        return found


def _value(measured: Measured) -> float:
    return float(measured[0]) if isinstance(measured, Sequence) else float(measured)


def _t_interval(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    wide = T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - wide, mean + wide


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition of a criterion: a number of the results, and the range where it must lie.

    Attributes:
        text: the condition in words.
        compared: the mean of the number, and the ends of its 95 % interval (NaN if unknown).
        low: least value.
        high: largest value.
        whole: the whole interval must be above ``low``, instead of the mean in the range.
        certain: the reason why it holds by construction, so that it tests the program and says
            nothing about the claim; "" for evidence.
        headline: it is what the title of the claim says, not a side condition.
    """

    text: str
    compared: Callable[[Results], tuple[float, float, float]]
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    certain: str = ""
    headline: bool = False

    def outcome(self, results: Results) -> Outcome:
        """Return whether the results meet it, contradict it, or leave it undecided.

        Contradicted: it does not hold, and the whole interval is outside the range. Undecided: it
        does not hold, and the interval has both sides or is not known.
        """
        mean, low, high = self.compared(results)
        if low > self.low if self.whole else self.low <= mean <= self.high:
            return "holds"
        return "contradicted" if high < self.low or low > self.high else "undecided"

    def holds(self, results: Results) -> bool:
        """Return whether the results meet it."""
        return self.outcome(results) == "holds"

    def came(self, results: Results) -> str:
        """Return what is compared, as text: the mean, and its interval if there is one."""
        mean, low, high = self.compared(results)
        told = f"{mean:.4g}"
        return told if math.isnan(low) or low == high else f"{told}, from {low:.3g} to {high:.3g}"


def _number(name: str) -> Callable[[Results], tuple[float, float, float]]:
    return lambda results: (results.mean(name), *results.interval(name))


def above(name: str, bound: float) -> Check:
    """Require the mean of a number to reach a bound."""
    return Check(f"{name} ≥ {bound:g}", _number(name), low=bound)


def below(name: str, bound: float) -> Check:
    """Require the mean of a number to stay at or under a bound."""
    return Check(f"{name} ≤ {bound:g}", _number(name), high=bound)


def positive(name: str, text: str) -> Check:
    """Require the whole 95 % interval of a number to be above 0, with the condition in words."""
    return Check(text, _number(name), low=0.0, whole=True)


def ahead(first: str, second: str, by: float = 0.0) -> Check:
    """Require first - second to exceed a margin, with the whole of its 95 % interval.

    A difference whose interval is not known (one seed, numbers without intervals) does not pass.
    """
    margin = f" by more than {by:g}" if by else ""
    return Check(
        f"{first} is above {second}{margin}, the whole 95 % interval of the difference",
        lambda results: results.difference(first, second),
        low=by,
        whole=True,
    )


def close(first: str, second: str, within: float) -> Check:
    """Require the means of two numbers to differ by a margin at most."""
    return Check(
        f"{first} and {second} differ by at most {within:g}",
        lambda results: results.difference(first, second),
        low=-within,
        high=within,
    )


def certain(check: Check, reason: str) -> Check:
    """Mark a condition that holds by construction, with the reason.

    It is measured and shown, since it finds faults of the program, but a verdict does not count it.
    """
    return dataclasses.replace(check, certain=reason)


def headline(check: Check) -> Check:
    """Mark a condition that the title of the claim says; if none of them holds, nothing does."""
    return dataclasses.replace(check, headline=True)


@dataclasses.dataclass(frozen=True)
class Claim:
    """Claim of a paper with its measurement and the criterion of its reproduction.

    Attributes:
        name: in lower case with hyphens, for the command line and files.
        title: the claim in a few words.
        source: authors, year, arXiv or doi, table, figure or section.
        claimed: what the paper says, in a sentence.
        criterion: conditions fixed before measuring; all hold: reproduced; some, with one at least
            that the title says: partly. Those that are certain count only if they do not hold.
        measure: the numbers of one seed, by name.
        unit: of the numbers, for the axis of the figure.
        came: what was seen, in a sentence, from the results.
        meaning: what it means, in a sentence; told of a claim that was reproduced.
        otherwise: what it means that a claim came partly or not, in a sentence; required then.
        published: numbers of the paper under the names of ours, where they can be compared.
        setup: data, model and size here, and in what they differ from the paper's.
        minutes: of one core for a seed.
        seeds: number of seeds of a full measurement.
        needs: folders of data that it reads, empty for data that is made on the spot.
        figure: a picture instead of the common one.
        axes: labels of x and y of the common picture; for numbers without curves, of x alone.
        scales: of the axes of curves, "linear" or "log" (x to base 2, y to base 10).
        in_tests: its quick form runs in the project's tests.
    """

    name: str
    title: str
    source: str
    claimed: str
    setup: str
    criterion: tuple[Check, ...]
    measure: Callable[[Setting], Mapping[str, Measured]]
    came: Callable[[Results], str]
    meaning: str
    minutes: float
    unit: str = ""
    axes: tuple[str, str] = ("", "")
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    otherwise: str = ""
    seeds: int = 3
    needs: tuple[str, ...] = ()
    figure: Callable[[Results], Figure] | None = None
    scales: tuple[str, str] = ("linear", "linear")
    in_tests: bool = False

    def verdict(self, results: Results) -> str:
        """Return "reproduced", "partly", "not reproduced", "checked" or "unfinished".

        Checked: every condition holds by construction. Unfinished: seeds are missing.
        """
        if not set(range(self.seeds)) <= set(results.seeds):
            return "unfinished"
        if not all(check.holds(results) for check in self.criterion if check.certain):
            return "not reproduced"
        counted = [check for check in self.criterion if not check.certain]
        if not counted:
            return "checked"
        if all(check.holds(results) for check in counted):
            return "reproduced"
        titles = any(check.holds(results) for check in counted if check.headline)
        return "partly" if titles else "not reproduced"

    def undecided(self, results: Results) -> bool:
        """Return whether a claim that was not reproduced is not contradicted either.

        So it is if the results leave every condition open that the title says.
        """
        said = [check for check in self.criterion if check.headline and not check.certain]
        outcomes = {check.outcome(results) for check in said}
        return self.verdict(results) == "not reproduced" and outcomes == {"undecided"}
