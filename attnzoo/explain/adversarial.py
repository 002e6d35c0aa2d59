"""Adversarial attention: weights far from the model's that leave its answer unchanged.

Jain and Wallace, NAACL 2019 (arXiv 1902.10186), search for such weights. Wiegreffe and Pinter,
EMNLP 2019 (arXiv 1908.04626), reply that a model must be able to learn them; they also compare with
the divergence between seeds, and with uniform weights.

``answer(weights)`` is the model's distribution ``B V`` with these weights in place of its own, as
in ``erasure``; :func:`answer_of` builds such a function for an attention inside a model. Weights of
0 are padding. Divergences are Jensen-Shannon divergences in nats, 0 to ln 2, averaged over all axes
but the batch.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnzoo.explain.attention_modules import perturb, unrolled
from attnzoo.explain.capture import capture_attention
from attnzoo.explain.erasure import jensen_shannon

Weights = Float[Array, "B *rows S"]
Answer = Callable[[Weights], Float[Array, "B V"]]


class Adversarial(NamedTuple):
    """Adversarial weights: as far from the model's as possible, with the same answer."""

    weights: Weights
    """Adversarial weights; the model's own where none were found."""
    divergence: Float[Array, " B"]
    change: Float[Array, " B"]
    """Total variation between the answer and the model's."""


class CurvePoint(NamedTuple):
    """Result of a trained adversary, as means over examples."""

    strength: float
    change: float
    divergence: float


def answer_of(
    model: nnx.Module, layer: str, *inputs: Any, row: int | None = None, **keywords: Any
) -> tuple[Weights, Answer]:
    """Return the weights of one attention of a model with logits ``B V``, and ``answer``.

    Changed weights affect later layers; earlier layers are unchanged. With ``row`` the weights are
    those of that query, ``B N S`` (0 is a class token), else all, ``B N T S``.

    Raises:
      ValueError: no such layer.
      NotImplementedError: the attention's weights cannot be varied.
    """
    _, maps = capture_attention(model, *inputs, layers=[layer], **keywords)
    whole = maps[layer].astype(jnp.float32)
    # One layer of a scanned stack cannot be changed alone.
    copied = unrolled(model)
    perturb(nnx.clone(copied), {layer: jnp.zeros_like(whole)})
    graph, state = nnx.split(copied)

    def answer(weights: Weights) -> Float[Array, "B V"]:
        moved = weights if row is None else whole.at[:, :, row].set(weights)
        copy: Any = nnx.merge(graph, state)
        perturb(copy, {layer: moved - whole})
        return jax.nn.softmax(copy(*inputs, **keywords).astype(jnp.float32), axis=-1)

    return whole if row is None else whole[:, :, row], answer


def adversarial(
    answer: Answer,
    weights: Weights,
    key: Key[Array, ""],
    *,
    epsilon: float = 0.01,
    restarts: int = 5,
    steps: int = 500,
    rate: float = 0.01,
    penalty: float = 500.0,
) -> Adversarial:
    """Maximise the divergence of weights that change the answer by ``epsilon`` at most.

    The change is a total variation (Jain and Wallace, section 4.2.2). AMSGrad minimises -JSD(new,
    old) + penalty relu(TVD - epsilon), less the mean JSD between the restarts, which start at
    uniform logits plus noise of standard deviation 3. The result is the best of all steps, since
    the last step may lie slightly beyond epsilon.
    """
    real = weights > 0
    before = answer(weights)
    found = jax.vmap(answer)

    def attention(logits: Array) -> Array:
        masked = jnp.where(real[None], logits, -jnp.inf)
        # A row with only padding has no softmax.
        any_ = jnp.any(real, axis=-1, keepdims=True)[None]
        return jnp.where(any_, jax.nn.softmax(jnp.where(any_, masked, 0.0), axis=-1), 0.0)

    def measured(new: Array) -> tuple[Array, Array]:
        return (
            divergence(new, jnp.broadcast_to(weights[None], new.shape), batch=2),
            total_variation(found(new), before[None]),
        )

    def loss(logits: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        new = attention(logits)
        apart, change = measured(new)
        pairs = [
            jnp.mean(divergence(new[i], new[j]))
            for i, j in itertools.combinations(range(restarts), 2)
        ]
        spread = sum(pairs[1:], pairs[0]) / len(pairs) if pairs else jnp.zeros(())
        cost = jnp.maximum(change - epsilon, 0) * penalty - apart
        B = weights.shape[0]
        return jnp.sum(cost) - spread * B, (new, apart, change)

    optimizer = optax.amsgrad(rate)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        logits, memory, best = carry
        gradients, seen = jax.grad(loss, has_aux=True)(logits)
        updates, memory = _update(optimizer, gradients, memory)
        return (logits + updates, memory, _better(best, seen, epsilon)), None

    logits = 3 * jax.random.normal(key, (restarts, *weights.shape), jnp.float32)
    B = weights.shape[0]
    start = Adversarial(weights, jnp.zeros((B,)), jnp.zeros((B,)))
    carry, _ = jax.lax.scan(step, (logits, optimizer.init(logits), start), None, length=steps)
    last = attention(carry[0])
    return _better(carry[2], (last, *measured(last)), epsilon)


def uniform_change(answer: Answer, weights: Weights) -> Float[Array, " B"]:
    """Return the total variation of the answer under uniform weights.

    Wiegreffe and Pinter's uniform baseline, without retraining; near 0, the attention does not
    matter.
    """
    real = weights > 0
    count = jnp.maximum(jnp.sum(real, axis=-1, keepdims=True), 1).astype(weights.dtype)
    even = jnp.where(real, jnp.sum(weights, axis=-1, keepdims=True) / count, 0)
    return total_variation(answer(even), answer(weights))


def seed_divergence(maps: Sequence[Weights]) -> Float[Array, " B"]:
    """Return the mean divergence over pairs of models that differ only in their seed.

    ``maps`` are the models' weights for the same inputs (Wiegreffe and Pinter, section 3.3). An
    adversary with a smaller divergence proves nothing.
    """
    if len(maps) < 2:
        raise ValueError(f"maps of {len(maps)} models; wanted at least two")
    pairs = [divergence(a, b) for a, b in itertools.combinations(maps, 2)]
    return jnp.mean(jnp.stack(pairs), axis=0)


def train_adversary(
    model: nnx.Module,
    batches: Iterable[Any],
    layer: str,
    strength: float,
    *,
    rate: float = 1e-3,
    row: int | None = None,
) -> nnx.Module:
    """Train a copy of ``model`` to give the same answers with different attention.

    One Adam step per batch on TVD(answers) - strength KL(its weights ‖ the model's) (Wiegreffe and
    Pinter, section 4). A batch is the model's only input.
    """
    optimizer = optax.adam(rate)
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def run(parameters: Any, inputs: Any) -> tuple[Array, Array]:
        return _answered(nnx.merge(graph, parameters, rest), inputs, layer, row)

    def loss(mine: Any, inputs: Any) -> Array:
        answer, weights = run(mine, inputs)
        other, others = jax.lax.stop_gradient(run(parameters, inputs))
        return jnp.mean(total_variation(answer, other)) - strength * jnp.mean(_kl(weights, others))

    @jax.jit
    def step(mine: Any, memory: Any, inputs: Any) -> tuple[Any, Any]:
        updates, memory = _update(optimizer, jax.grad(loss)(mine, inputs), memory)
        return optax.apply_updates(mine, updates), memory

    mine, memory = parameters, optimizer.init(parameters)
    for inputs in batches:
        mine, memory = step(mine, memory, inputs)
    return nnx.merge(graph, mine, rest)


def adversary_curve(
    model: nnx.Module,
    batches: Sequence[Any],
    held_out: Any,
    layer: str,
    strengths: Sequence[float],
    *,
    rate: float = 1e-3,
    row: int | None = None,
) -> list[CurvePoint]:
    """Return divergence and change for each strength, with one trained adversary each.

    Both are measured on ``held_out``. Where a small change already allows a large divergence, the
    attention explains little.
    """
    before, own = jax.jit(lambda x: _answered(model, x, layer, row))(held_out)
    points = []
    for strength in strengths:
        other = train_adversary(model, batches, layer, strength, rate=rate, row=row)
        answer, weights = _answered(other, held_out, layer, row)
        change, apart = total_variation(answer, before), divergence(weights, own)
        points.append(CurvePoint(strength, float(jnp.mean(change)), float(jnp.mean(apart))))
    return points


def divergence(a: Array, b: Array, batch: int = 1) -> Array:
    """Return the Jensen-Shannon divergence, averaged over all but the first ``batch`` axes."""
    rows = jensen_shannon(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
    return jnp.mean(rows.reshape(*a.shape[:batch], -1), axis=-1)


def total_variation(p: Array, q: Array) -> Array:
    """Return half the sum of absolute differences of two distributions along the last axis."""
    return jnp.sum(jnp.abs(p - q), axis=-1) / 2


def _better(best: Adversarial, seen: tuple[Array, Array, Array], epsilon: float) -> Adversarial:
    """Return the farthest allowed restart, if it is farther than the best so far."""
    new, apart, change = seen
    allowed = jnp.where(change <= epsilon, apart, -1.0)
    first = jnp.argmax(allowed, axis=0)
    examples = np.arange(new.shape[1])
    new, apart, change = (x[first, examples] for x in (new, apart, change))
    farther = (change <= epsilon) & (apart > best.divergence)
    wide = farther.reshape(-1, *[1] * (new.ndim - 1))
    return Adversarial(
        jnp.where(wide, new, best.weights),
        jnp.where(farther, apart, best.divergence),
        jnp.where(farther, change, best.change),
    )


def _update(optimizer: Any, gradients: Any, memory: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by its integer count
        return optimizer.update(gradients, memory)


def _kl(p: Array, q: Array) -> Array:
    """Return sum p log(p / q) along the last axis; weights below 1e-9 count as 1e-9."""
    small = 1e-9
    return jnp.sum(p * (jnp.log(jnp.maximum(p, small)) - jnp.log(jnp.maximum(q, small))), axis=-1)


def _answered(model: nnx.Module, inputs: Any, layer: str, row: int | None) -> tuple[Array, Array]:
    logits, maps = capture_attention(model, inputs, layers=[layer])
    weights = maps[layer].astype(jnp.float32)
    answer = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return answer, weights if row is None else weights[:, :, row]
