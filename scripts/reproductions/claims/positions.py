"""Positions in decoders: none, and lengths that were not trained."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from reproductions.characters import (
    NEEDS,
    SMALL,
    SMALL_SETUP,
    VOCABULARY,
    Decoder,
    Positions,
    learn,
    losses,
    text,
    validation,
    windows,
)
from reproductions.claim import Claim, Measured, Results, Setting, above, ahead, below, headline

LENGTH = SMALL.max_length
COST = "cost of no positions, {} character"
RATIOS = (1, 1.5, 2, 3, 4)
Masked = tuple[Int[Array, "B T"], Int[Array, "B T"], Bool[Array, "B T"]]


def decoder(setting: Setting, positions: Positions) -> Decoder:
    """Return a trained decoder with positions of a kind."""
    model = Decoder(SMALL, positions, rngs=nnx.Rngs(setting.seed))
    return learn(setting, f"small {positions}", model)


def hidden(rows: Int[Array, "B T"], key: Array) -> Masked:
    """Return rows with 15 % of the characters replaced by the mask, the rows, and where."""
    chosen = jax.random.bernoulli(key, 0.15, rows.shape)
    return jnp.where(chosen, VOCABULARY, rows), rows, chosen


def masked_loss(model: Decoder, made: Masked) -> Float[Array, ""]:
    """Return the mean loss of the hidden characters."""
    shown, rows, chosen = made
    found = optax.softmax_cross_entropy_with_integer_labels(model(shown), rows)
    return jnp.where(chosen, found, 0).sum() / chosen.sum()


def masked(setting: Setting, positions: Positions) -> float:
    """Train a bidirectional model to guess hidden characters; return its validation loss."""
    read = windows(text(setting.data)[0], 12, LENGTH - 1)

    def batch(key: Array) -> Masked:
        first, second = jax.random.split(key)
        return hidden(read(first), second)

    model = Decoder(SMALL, positions, masked=True, rngs=nnx.Rngs(setting.seed))
    learn(setting, f"small masked {positions}", model, batch=batch, loss=masked_loss)
    rows = jnp.asarray(validation(setting, LENGTH, 1024)[:, :-1])
    return float(nnx.jit(masked_loss)(model, hidden(rows, jax.random.key(0))))


def without(setting: Setting) -> Mapping[str, Measured]:
    """Train decoders and masked models with learned positions and without any."""
    found: dict[str, float] = {}
    for positions in ("learned", "none"):
        rows = validation(setting, LENGTH)
        found[f"next character, {positions}"] = float(
            losses(decoder(setting, positions), rows).mean()
        )
        found[f"hidden character, {positions}"] = masked(setting, positions)
    for task in ("next", "hidden"):
        cost = found[f"{task} character, none"] - found[f"{task} character, learned"]
        found[COST.format(task)] = cost
    return found


def longer(setting: Setting) -> Mapping[str, Measured]:
    """Train at 64 characters; read the validation text in windows of up to four times as many."""
    found: dict[str, Measured] = {}
    for positions in ("sinusoidal", "rotary", "ALiBi"):
        model = decoder(setting, positions)
        for ratio in setting.pick(RATIOS, (1, 4)):
            rows = validation(setting, int(LENGTH * ratio))
            found[f"{positions}/{ratio}"] = float(losses(model, rows).mean())
    return found


def _without_came(results: Results) -> str:
    causal, masked = (
        [results.mean(f"{task} character, {positions}") for positions in ("learned", "none")]
        for task in ("next", "hidden")
    )
    return (
        f"Without positions the loss of the next character is {causal[1]:.3f} nats against "
        f"{causal[0]:.3f} with them, and that of a hidden character {masked[1]:.3f} against "
        f"{masked[0]:.3f}."
    )


def _longer_came(results: Results) -> str:
    told = (
        f"{results.mean(f'{kind}/1'):.3f} nats with {kind}"
        f" positions at the trained length and {results.mean(f'{kind}/4'):.3f} at four times it"
        for kind in ("sinusoidal", "rotary", "ALiBi")
    )
    cost, low, high = results.difference("ALiBi/2", "rotary/2")
    return (
        f"Here the loss is {', '.join(told)}. At the trained length already sinusoids are the "
        f"worst; at twice it ALiBi is still {cost:.3f} nats behind rotary positions "
        f"({low:.3f} to {high:.3f})."
    )


CLAIMS = (
    Claim(
        name="no-positions",
        title="A causal decoder needs no positions, a masked model does",
        source="Haviv et al. 2022, arXiv 2203.16634, abstract",
        claimed="Causal language models without positional encodings come close to those with, for "
        "the causal mask tells how many tokens came before; masked language models without them "
        "fail.",
        setup=f"{SMALL_SETUP}; masked models hide 15 % of the characters. The paper's "
        "causal models have 125 million to 1.3 billion parameters.",
        criterion=(
            below(COST.format("next"), 0.1),
            headline(ahead(COST.format("hidden"), COST.format("next"))),
            headline(above(COST.format("hidden"), 0.2)),
        ),
        measure=without,
        came=_without_came,
        meaning="Order is told by what may be seen: a triangle of a mask is a position too.",
        otherwise="The half about causal models can be judged; a masked model of this size learns "
        "in 1,000 steps little more than how frequent characters are, with positions or without.",
        minutes=1,
        needs=(NEEDS,),
        axes=("nats a character", ""),
    ),
    Claim(
        name="alibi-lengths",
        title="ALiBi reads longer texts than it was trained on, sinusoids do not",
        source="Press, Smith and Lewis 2022, arXiv 2108.12409, figure 1",
        claimed="Trained at a length, sinusoidal positions lose just beyond it, rotary ones "
        "somewhat later, and linear biases not at all.",
        setup=f"{SMALL_SETUP}; the validation text in windows side by side of 64 to 256 "
        "characters. The paper trains 247 million parameters at 512 and 1,024 tokens.",
        criterion=(
            headline(ahead("sinusoidal/1.5", "sinusoidal/1")),
            ahead("sinusoidal/4", "rotary/4"),
            ahead("rotary/4", "ALiBi/4"),
            headline(ahead("ALiBi/1", "ALiBi/4")),
        ),
        measure=longer,
        came=_longer_came,
        meaning="A penalty on distance treats unseen distances as more of the same; the embedding "
        "of a place that was never seen is noise.",
        otherwise="The order of the three holds only in part at this size.",
        minutes=1,
        needs=(NEEDS,),
        axes=("length read / length trained", "nats a character"),
    ),
)
