"""``check`` and ``report``: test an attention against its contract and report violations."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np

from attnzoo.testing import computing, decoding, dropout, explaining, lengths, reading
from attnzoo.testing.subject import (
    Broken,
    DoesNotApply,
    FunctionSizes,
    Inputs,
    ModuleSizes,
    Sizes,
    Subject,
    Visible,
    smaller,
)


@dataclasses.dataclass(frozen=True)
class Property:
    """A property's test, and the features that an attention needs for it."""

    test: Callable[[Subject], None]
    weights: bool = False
    mask: bool = False
    row_masks: bool = False

    @property
    def meaning(self) -> str:
        """The requirement in one sentence, from the test's docstring."""
        return " ".join((self.test.__doc__ or "").split("\n\n")[0].split())


# Order of tests: simple properties first, because they explain failures of later ones.
PROPERTIES: dict[str, Property] = {
    "shapes": Property(reading.shapes),
    "deterministic": Property(reading.deterministic),
    "same output without weights": Property(reading.same_without_weights, weights=True),
    "masked weights are zero": Property(reading.masked_weights_are_zero, weights=True),
    "rows sum to one": Property(reading.rows_sum_to_one, weights=True),
    "weights are not negative": Property(reading.not_negative, weights=True),
    "weights follow the input": Property(reading.weights_follow_input, weights=True),
    "every permitted key is reached": Property(computing.reaches_permitted_keys),
    "causality": Property(computing.causality),
    "fully masked rows": Property(reading.fully_masked_rows, mask=True),
    "masks broadcast": Property(reading.masks_broadcast, mask=True),
    "a float mask is refused": Property(reading.float_mask_is_refused, mask=True),
    "padding changes nothing": Property(reading.padding_changes_nothing, mask=True),
    "NaN in padding": Property(reading.nan_in_padding, mask=True),
    "queries are exchangeable": Property(reading.queries_exchangeable),
    "keys are exchangeable": Property(reading.keys_exchangeable),
    "a causal mask orders the keys": Property(reading.causal_mask_orders_keys),
    "weights times values": Property(reading.weights_times_values, weights=True),
    "weights explain the context": Property(explaining.weights_explain_context, weights=True),
    "convex hull": Property(reading.convex_hull),
    "grouped heads": Property(reading.grouped_heads),
    "half precision": Property(computing.half_precision),
    "large logits": Property(computing.large_logits),
    "jit": Property(computing.jit),
    "vmap": Property(computing.vmap),
    "gradients": Property(computing.gradients),
    "values default to keys": Property(reading.values_default_to_keys),
    "empty sequences": Property(lengths.empty_sequences),
    "short sequences": Property(lengths.short_sequences),
    "long sequences": Property(lengths.long_sequences),
    "prepared memory": Property(decoding.prepared_memory),
    "step by step": Property(decoding.step_by_step),
    "positions are places": Property(decoding.positions_are_places),
    "decoding": Property(decoding.decoding),
    "dropout": Property(dropout.dropout),
    "weights after dropout": Property(dropout.weights_after_dropout, weights=True),
    "reference": Property(reading.agrees_with_reference),
}

NO_WEIGHTS, NO_MASK, NO_ROW_MASKS = "weights on request", "mask", "a mask for each query"
"""Features that may be declared missing; properties that need them then do not apply."""

Status = Literal["held", "BROKEN", "excepted", "unneeded exception", "does not apply"]


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of one property; ``detail`` is the number that violates it, or the reason."""

    status: Status
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """Results of all properties; ``str`` gives a Markdown table."""

    name: str
    results: dict[str, Result]

    def named(self, status: Status) -> list[str]:
        """Return the names of the properties with this status."""
        return [name for name, result in self.results.items() if result.status == status]

    def __str__(self) -> str:
        lines = [f"| {self.name} | | |", "|---|---|---|"]
        lines += [
            f"| {name} | {result.status} | {result.detail.replace('|', '/')} |"
            for name, result in self.results.items()
        ]
        return "\n".join(lines)


class ContractError(AssertionError):
    """A property does not hold: ``broken`` names it, ``report`` has the results before it.

    ``sizes`` and ``inputs`` are the smallest case in which it fails.
    """

    def __init__(
        self,
        message: str,
        broken: str,
        report: Report,
        sizes: Sizes | None = None,
        inputs: Inputs | None = None,
    ):
        super().__init__(message)
        self.broken, self.report, self.sizes, self.inputs = broken, report, sizes, inputs


def check(
    attention: Callable[..., Any],
    *,
    sizes: Sizes | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    visible: Visible | None = None,
    reference: Callable[..., Any] | None = None,
    properties: Iterable[str] | None = None,
    except_: Mapping[str, str] | None = None,
    shrink: bool = True,
) -> Report:
    """Raise ContractError unless ``attention`` keeps the contract of attention.

    A module is called ``attention(query, keys, values, mask=..., return_weights=True)`` with
    ``B T D``, ``B S D2``, ``B S Dv``; a function in the same way with q ``B T N H``, k ``B S K H``,
    v ``B S K Hv``. A module's parameters must be random, not zero: uniform weights hide faults. If
    the module is a pytree of arrays (flax nnx, equinox, ...), its parameters are cast to the
    inputs' dtype and their gradients are tested, too.

    Args:
      sizes: ``ModuleSizes(...)`` or ``FunctionSizes(...)``, which selects the calling convention;
        None: the latter for a function, the former for any other object. Choose T unequal to S.
      dtype: dtype of most properties; half precision and float64 gradients are tested anyway.
      visible: ``visible(T, S)`` -> ``T S`` bool, the attention's own rule for keys that a query
        may attend to, besides the mask; ``numpy.tri`` for one that is always causal.
      reference: ``reference(query, keys, values, mask)`` -> the context, or (context, weights), in
        float64 with numpy: an independent computation, compared to 1e-10.
      properties: names of the properties to test, keys of ``PROPERTIES``; None: all.
      except_: properties that need not hold, each with the reason; added to those that the
        attention itself declares as ``contract_exceptions``. Also ``"weights on request"``,
        ``"mask"`` and ``"a mask for each query"`` for missing features: the properties that need
        them then do not apply.
      shrink: search the smallest failing case of a property; False: show the first, sooner.

    Returns:
      The report, if all properties hold.

    Raises:
      ContractError: names the property, the numbers, and the smallest sizes and inputs that break
        it; also for a property in ``except_`` that does hold.
      ValueError: an unknown property, an exception without a reason.
    """
    subject, reasons = _subject(attention, sizes, dtype, seed, visible, reference, except_)
    results: dict[str, Result] = {}
    found = Report(_name(attention), results)
    for name in _names(properties):
        results[name], failure = _examine(name, subject, reasons)
        if failure is not None:
            if shrink:
                subject, failure = _shrink(PROPERTIES[name], subject, failure)
            raise _error(name, failure, subject, found)
    for name in found.named("unneeded exception"):
        if name in (except_ or {}):
            raise ContractError(
                f"{name}: {found.name} holds it, though excepted with the reason "
                f"{(except_ or {})[name]!r}; take the exception away",
                name,
                found,
            )
    return found


def report(
    attention: Callable[..., Any],
    *,
    sizes: Sizes | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    visible: Visible | None = None,
    reference: Callable[..., Any] | None = None,
    properties: Iterable[str] | None = None,
    except_: Mapping[str, str] | None = None,
) -> Report:
    """Return the table of all properties: held, broken, excepted; arguments as in ``check``."""
    subject, reasons = _subject(attention, sizes, dtype, seed, visible, reference, except_)
    results = {name: _examine(name, subject, reasons)[0] for name in _names(properties)}
    return Report(_name(attention), results)


def _subject(
    attention: Callable[..., Any],
    sizes: Sizes | None,
    dtype: Literal["float32", "float64"],
    seed: int,
    visible: Visible | None,
    reference: Callable[..., Any] | None,
    except_: Mapping[str, str] | None,
) -> tuple[Subject, dict[str, str]]:
    """Return the subject under test, and all declared exceptions with their reasons."""
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype={dtype!r}; wanted 'float32' or 'float64'")
    if sizes is None:
        sizes = FunctionSizes() if inspect.isfunction(attention) else ModuleSizes()
    reasons = {**getattr(attention, "contract_exceptions", {}), **(except_ or {})}
    _known("except_", reasons, [*PROPERTIES, NO_WEIGHTS, NO_MASK, NO_ROW_MASKS])
    for name, reason in reasons.items():
        if not reason.strip():
            raise ValueError(f"the exception {name!r} has no reason; say why it does not hold")
    subject = Subject(
        attention,
        sizes,
        seed,
        dtype,
        visible,
        reference,
        has_weights=NO_WEIGHTS not in reasons,
        has_mask=NO_MASK not in reasons,
        has_row_masks=NO_ROW_MASKS not in reasons,
    )
    return subject, reasons


def _names(properties: Iterable[str] | None) -> list[str]:
    names = list(PROPERTIES if properties is None else properties)
    _known("properties", names, [*PROPERTIES])
    return names


def _examine(
    name: str, subject: Subject, reasons: dict[str, str]
) -> tuple[Result, Exception | None]:
    """Return the result of one property, and the exception if it failed unexpectedly."""
    property_ = PROPERTIES[name]
    needs = {
        NO_WEIGHTS: property_.weights,
        NO_MASK: property_.mask,
        NO_ROW_MASKS: property_.row_masks,
    }
    for thing, needed in needs.items():
        if needed and thing in reasons:
            return Result("does not apply", reasons[thing]), None
    try:
        failure = _failure(property_, subject)
    except DoesNotApply as why:
        return Result("does not apply", str(why)), None
    if name in reasons:
        return Result("excepted" if failure else "unneeded exception", reasons[name]), None
    if failure is None:
        return Result("held"), None
    return Result("BROKEN", _first_line(failure)), failure


def _failure(property_: Property, subject: Subject) -> Exception | None:
    try:
        # A GPU or TPU would otherwise multiply float32 with fewer bits.
        with jax.default_matmul_precision("highest"):
            property_.test(subject)
    except DoesNotApply:
        raise
    except Exception as error:  # an attention under test may fail in any way
        return error
    return None


def _error(name: str, failure: Exception, subject: Subject, found: Report) -> ContractError:
    """Return the error of a property, with the inputs of its failure."""
    sizes = " ".join(f"{key}={n}" for key, n in dataclasses.asdict(subject.sizes).items())
    lines = [
        f"{name}: broken by {found.name}",
        f"  wanted: {PROPERTIES[name].meaning}",
        f"  {_first_line(failure)}",
        f"  case: {sizes} seed={subject.seed}",
    ]
    inputs = failure.inputs if isinstance(failure, Broken) else None
    outputs = failure.outputs if isinstance(failure, Broken) else None
    if inputs is not None:
        arrays = dict(zip(subject.sizes.names, (inputs.query, inputs.keys, inputs.values)))
        lines += [_show(key, array) for key, array in arrays.items()]
        lines += [] if inputs.mask is None else [_show("mask", inputs.mask.astype(int))]
    if outputs is not None:
        lines += [_show("context", outputs.context), _show("weights", outputs.weights)]
    error = ContractError("\n".join(lines), name, found, subject.sizes, inputs)
    error.__cause__ = None if isinstance(failure, Broken) else failure
    return error


def _shrink(property_: Property, subject: Subject, failure: Exception) -> tuple[Subject, Exception]:
    """Shorten one axis after the other while the property fails in the same way.

    The widths of a module are fixed by its parameters: with others it would raise for another
    reason, or a width of 1 would be broadcast.
    """
    tried: set[Sizes] = {subject.sizes}
    bound = not isinstance(failure, Broken) or subject.parameters("float32")
    fixed = ("D", "D2", "Dv") if bound else ()

    def again() -> bool:
        nonlocal subject, failure
        for sizes in smaller(subject.sizes):
            if sizes in tried or any(
                getattr(sizes, name, 0) != getattr(subject.sizes, name, 0) for name in fixed
            ):
                continue
            tried.add(sizes)
            candidate = dataclasses.replace(subject, sizes=sizes)
            try:
                other = _failure(property_, candidate)
            except DoesNotApply:
                continue
            if other is not None and type(other) is type(failure):
                subject, failure = candidate, other
                return True
        return False

    while again():
        pass
    return subject, failure


def _known(argument: str, names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.0)[0]
            raise ValueError(
                f"{argument} names {name!r}, which is no property; did you mean {near!r}?"
            )


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, Broken) else f"raised {type(error).__name__}: {text}"


def _name(attention: Callable[..., Any]) -> str:
    return getattr(attention, "__name__", type(attention).__name__)


def _show(name: str, array: np.ndarray) -> str:
    text = np.array2string(array, precision=5, threshold=200, separator=", ", prefix=f"  {name} = ")
    return f"  {name} = {text}"
