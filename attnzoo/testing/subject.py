"""The attention under test, its random inputs, and ways to run it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Visible = Callable[[int, int], np.ndarray]
Pattern = Literal["random", "causal", "padding", "all"]

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True)
class ModuleSizes:
    """Sizes for a module: query ``B T D``, keys ``B S D2``, values ``B S Dv``."""

    B: int = 2
    T: int = 5
    S: int = 7
    D: int = 11
    D2: int = 11
    Dv: int = 3
    names = ("query", "keys", "values")

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of query, keys and values."""
        return (self.B, self.T, self.D), (self.B, self.S, self.D2), (self.B, self.S, self.Dv)


@dataclasses.dataclass(frozen=True)
class FunctionSizes:
    """Sizes for a function: q ``B T N H``, k ``B S K H``, v ``B S K Hv``."""

    B: int = 2
    T: int = 5
    S: int = 7
    N: int = 6
    K: int = 3
    H: int = 11
    Hv: int = 2
    names = ("q", "k", "v")

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of q, k and v."""
        keys = (self.B, self.S, self.K)
        return (self.B, self.T, self.N, self.H), (*keys, self.H), (*keys, self.Hv)


Sizes = ModuleSizes | FunctionSizes


def smaller(sizes: Sizes) -> Iterator[Sizes]:
    """Yield smaller sizes to try: all lengths at most 2 at once, then one axis after the other.

    A module's widths are fixed by its parameters, so the first attempt keeps them.
    """
    now = dataclasses.asdict(sizes)
    lengths = {name: min(size, 2) for name, size in now.items() if name not in ("D", "D2", "Dv")}
    yield dataclasses.replace(sizes, **lengths)
    for name, size in now.items():
        for shorter in range(1, min(size, 4)):
            yield dataclasses.replace(sizes, **{name: shorter})


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arguments of one call in float64, exact in float32.

    ``mask`` is ``B N T S``, ``B 1 1 S`` (for an attention that takes no other) or None.
    """

    query: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    mask: np.ndarray | None

    def replace(self, **changes: Any) -> "Inputs":
        """Return a copy with some arrays replaced."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Results of one call in float64, and their original dtypes."""

    context: np.ndarray
    weights: np.ndarray
    dtypes: tuple[str, ...]


class Broken(Exception):  # noqa: N818 (a finding on its way to the report, never seen outside)
    """A property does not hold; the message gives the numbers."""

    def __init__(self, message: str, inputs: Inputs | None = None, outputs: Outputs | None = None):
        super().__init__(message)
        self.inputs, self.outputs = inputs, outputs


class DoesNotApply(Exception):  # noqa: N818 (no error either)
    """The property does not apply to this attention; the message says why."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """An attention with sizes and seed, and the methods by which properties examine it.

    ``has_weights`` and ``has_mask`` are False for an attention that declares that it has none, and
    ``has_row_masks`` for one whose mask only marks real keys: ``B 1 1 S``.
    """

    attention: Callable[..., Any]
    sizes: Sizes
    seed: int = 0
    dtype: str = "float32"
    visible: Visible | None = None
    reference: Callable[..., Any] | None = None
    has_weights: bool = True
    has_mask: bool = True
    has_row_masks: bool = True
    compiled: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def tolerance(self) -> float:
        """Largest permitted difference between two ways to compute numbers of order 1."""
        return TOLERANCE[self.dtype]

    @property
    def weight_tolerance(self) -> float:
        """Largest permitted difference of weights, which are float32 whatever the inputs are."""
        return TOLERANCE["float32"]

    @property
    def heads(self) -> int:
        """Number of heads of a mask: that of the weights, so that each head has its own mask."""
        if isinstance(self.sizes, FunctionSizes):
            return self.sizes.N
        if "heads" not in self.compiled:
            self.compiled["heads"] = self._heads_of_module()
        return self.compiled["heads"]

    def _heads_of_module(self) -> int:
        if not (self.has_weights and self.has_mask and self.has_row_masks):
            return 1
        mask = np.ones((self.sizes.B, 1, self.sizes.T, self.sizes.S), bool)
        inputs = Inputs(*(np.zeros(shape) for shape in self.sizes.shapes()), mask)
        try:
            _, weights = self.abstract(inputs)
            return weights.shape[1] if len(weights.shape) == 4 else 1
        except Exception:  # an attention that cannot be called at all: "shapes" will say so
            return 1

    def abstract(self, inputs: Inputs) -> Any:
        """Return the shapes and dtypes of a call with the weights: traced, not compiled."""
        with self.precision():
            given = arguments(inputs, self.dtype)
            return jax.eval_shape(self.call, self.parameters(self.dtype), *given)

    def precision(self) -> Any:
        """Return a context manager in which numbers of ``dtype`` keep their precision."""
        return jax.enable_x64(self.dtype == "float64")

    def inputs(self, pattern: Pattern, draw: int = 0) -> Inputs:
        """Draw standard normal inputs, and a mask of the given pattern if the attention takes one.

        Every row has a permitted key, except where ``visible`` leaves it none.
        """
        random = np.random.default_rng((self.seed, draw))
        # Exact in float32, so that a run in another dtype sees the same numbers.
        arrays = [
            random.standard_normal(shape).astype(np.float32).astype(np.float64)
            for shape in self.sizes.shapes()
        ]
        return Inputs(*arrays, self._mask(pattern, random) if self.has_mask else None)

    def _mask(self, pattern: Pattern, random: np.random.Generator) -> np.ndarray:
        B, T, S = self.sizes.B, self.sizes.T, self.sizes.S
        shape = (B, self.heads, T, S) if self.has_row_masks else (B, 1, 1, S)
        if pattern == "causal" and self.has_row_masks:
            return np.broadcast_to(np.tri(T, S, dtype=bool), shape)
        lengths = np.maximum(1, S - 1 - np.arange(B) % 2)  # one and two keys of padding
        valid = np.broadcast_to(np.arange(S) < lengths[:, None, None, None], shape)
        if pattern == "all":
            return np.ones(shape, bool)
        if pattern == "padding" or not self.has_row_masks:
            return valid
        mask = valid & (random.random(shape) < 0.7)
        empty = ~np.any(mask & self._visible(), axis=-1, keepdims=True)
        return np.where(empty, valid, mask)

    def _visible(self) -> np.ndarray:
        T, S = self.sizes.T, self.sizes.S
        if self.visible is None:
            return np.ones((T, S), bool)
        return np.broadcast_to(np.asarray(self.visible(T, S), bool), (T, S))

    def permitted(self, inputs: Inputs) -> np.ndarray:
        """Return ``B N T S``: True where the mask and the attention's own rule permit a key."""
        shape = (self.sizes.B, self.heads, self.sizes.T, self.sizes.S)
        mask = np.ones(shape, bool) if inputs.mask is None else np.broadcast_to(inputs.mask, shape)
        return mask & self._visible()

    # Ways to run it.

    def parameters(self, dtype: str) -> list[Any]:
        """Return the floating point arrays of the attention, if it is a pytree with arrays."""
        leaves = jax.tree.leaves(self.attention)
        return [_in(dtype, np.asarray(leaf)) for leaf in leaves if _real(leaf)]

    def with_parameters(self, parameters: list[Any]) -> Callable[..., Any]:
        """Return the attention with these arrays in place of its own."""
        leaves, tree = jax.tree.flatten(self.attention)
        rest = iter(parameters)
        return jax.tree.unflatten(tree, [next(rest) if _real(leaf) else leaf for leaf in leaves])

    def call(
        self, parameters: list[Any], query: Any, keys: Any, values: Any, mask: Any
    ) -> tuple[Any, ...]:
        """Return ``(context, weights)``, or ``(context,)`` of an attention without weights."""
        attention = self.with_parameters(parameters) if parameters else self.attention
        if not self.has_weights:
            return (attention(query, keys, values, **_mask_argument(mask)),)
        return attention(query, keys, values, **_mask_argument(mask), return_weights=True)

    def context(self, parameters: list[Any], query: Any, keys: Any, values: Any, mask: Any) -> Any:
        """Return the context alone, called without ``return_weights``."""
        attention = self.with_parameters(parameters) if parameters else self.attention
        return attention(query, keys, values, **_mask_argument(mask))

    def jitted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``jax.jit(function)``, cached by name: all sizes and properties share it."""
        return self.compiled.setdefault(name, jax.jit(function))

    def run(
        self,
        inputs: Inputs,
        dtype: str | None = None,
        *,
        eager: bool = False,
        parameters_from: str | None = None,
    ) -> Outputs:
        """Call the attention, compiled unless ``eager``, with parameters and inputs in ``dtype``.

        An eager call uses the object itself, so that hidden state shows. ``parameters_from`` is a
        dtype that the parameters are rounded to first.
        """
        dtype = self.dtype if dtype is None else dtype
        with jax.enable_x64(dtype == "float64"):
            function = self.call if eager else self.jitted("call", self.call)
            parameters = self.parameters(parameters_from or dtype)
            if parameters_from is not None:
                parameters = [_in(dtype, np.asarray(array)) for array in parameters]
            if eager and dtype == "float32":
                parameters = []
            return outputs_of(function(parameters, *arguments(inputs, dtype)))

    def run_without_values(self, inputs: Inputs) -> Outputs:
        """Call the attention with None for the values."""
        with self.precision():
            query, keys, _, mask = arguments(inputs, self.dtype)
            function = self.jitted("call", self.call)
            return outputs_of(function(self.parameters(self.dtype), query, keys, None, mask))

    def run_masks(self, inputs: Inputs, masks: list[np.ndarray | None]) -> list[Outputs]:
        """Call the attention with masks of different shapes, in one compiled program."""

        def calls(parameters: list[Any], given: Any, masks: list[Any]) -> Any:
            return [self.call(parameters, *given, mask) for mask in masks]

        with self.precision():
            given = arguments(inputs, self.dtype)[:3]
            masks = [None if mask is None else jax.device_put(mask) for mask in masks]
            found = self.jitted("masks", calls)(self.parameters(self.dtype), given, masks)
            return [outputs_of(result) for result in found]

    def run_without_weights(self, inputs: Inputs) -> np.ndarray:
        """Return the context of a call without ``return_weights``."""
        return self._derived(inputs)[0]

    def jacobian(self, inputs: Inputs) -> tuple[np.ndarray, ...]:
        """Return the largest |d context[b, t] / d x[c, s]|, ``B T B S``, for each input x."""
        return tuple(map(_per_position, self._derived(inputs)[1]))

    def value_derivative(self, inputs: Inputs) -> np.ndarray:
        """Return d context[b, t] / d values[b, s] as ``B T S F``: F counts pairs of features."""
        derivative = self._derived(inputs)[1][2]
        half = derivative.ndim // 2
        own = np.stack([derivative[b].take(b, axis=half - 1) for b in range(self.sizes.B)])
        own = np.moveaxis(own, half, 2)  # B T S, then the features of both
        return own.reshape(*own.shape[:3], -1)

    def _derived(self, inputs: Inputs) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return context and Jacobians from one program; compilation takes nearly all the time."""

        def twice(*arguments: Any) -> tuple[Any, Any]:
            context = self.context(*arguments)
            return context, context

        derivative = jax.jacrev(twice, argnums=(1, 2, 3), has_aux=True)
        with jax.enable_x64(self.dtype == "float64"):
            function = self.jitted("jacobian", derivative)
            found, context = function(self.parameters(self.dtype), *arguments(inputs, self.dtype))
            jacobians = tuple(np.asarray(array).astype(np.float64) for array in found)
            return np.asarray(context).astype(np.float64), jacobians


def arguments(inputs: Inputs, dtype: str) -> tuple[Any, ...]:
    """Return query, keys, values in ``dtype``, and the mask, as jax arrays."""
    arrays = (_in(dtype, x) for x in (inputs.query, inputs.keys, inputs.values))
    return (*arrays, None if inputs.mask is None else jax.device_put(inputs.mask))


def outputs_of(result: Any) -> Outputs:
    """Convert results to float64; an empty array stands for missing weights."""
    if not isinstance(result, tuple | list):
        raise Broken(f"return_weights=True gave a {type(result).__name__}; wanted a tuple")
    arrays = [np.asarray(array).astype(np.float64) for array in result[:2]]
    dtypes = tuple(str(array.dtype) for array in result[:2])
    return Outputs(arrays[0], arrays[1] if len(arrays) > 1 else np.zeros((0, 0, 0, 0)), dtypes)


def expect(
    what: str,
    got: np.ndarray,
    wanted: Any,
    tolerance: float,
    inputs: Inputs | None = None,
    outputs: Outputs | None = None,
) -> None:
    """Raise Broken unless ``got`` is ``wanted`` up to ``tolerance``, relative above 1."""
    wanted = np.broadcast_to(np.asarray(wanted, np.float64), got.shape)
    scale = np.maximum(1.0, np.abs(wanted)) if tolerance else 1.0
    with np.errstate(invalid="ignore"):
        difference = np.where(got == wanted, 0.0, np.abs(got - wanted) / scale)
    difference = np.where(np.isnan(difference), np.inf, difference)
    if got.size and difference.max() > tolerance:
        at = np.unravel_index(np.argmax(difference), got.shape)
        place = ", ".join(str(int(i)) for i in at)
        known = "a number; it is compared with nan" if np.isnan(wanted[at]) else f"{wanted[at]:.7g}"
        raise Broken(
            f"{what}[{place}] is {got[at]:.7g}; wanted {known} "
            f"({'up to ' + format(tolerance, 'g') if tolerance else 'exactly'}; "
            f"{int((difference > tolerance).sum())} of {got.size} numbers are wrong)",
            inputs,
            outputs,
        )


def _in(dtype: str, x: np.ndarray) -> jax.Array:
    """Convert with numpy and move to the device; jax would compile a conversion for each shape."""
    return jax.device_put(x.astype(jnp.dtype(dtype)))


def _real(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _mask_argument(mask: Any) -> dict[str, Any]:
    return {} if mask is None else {"mask": mask}


def _per_position(derivative: np.ndarray) -> np.ndarray:
    half = derivative.ndim // 2  # modules: B T D, functions: B T N H
    features = (*range(2, half), *range(half + 2, derivative.ndim))
    return np.max(np.abs(derivative), axis=features)
