"""nanoGPT's small decoder, and what its trained heads do: sinks, heads that nobody misses."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.ops.masks import MaskFunction, sink_tokens, sliding_window
from reproductions.characters import (
    NANO,
    NEEDS,
    Decoder,
    cross_entropy,
    learn,
    losses,
    text,
    validation,
    windows,
)
from reproductions.claim import (
    Check,
    Claim,
    Measured,
    Results,
    Setting,
    above,
    ahead,
    below,
    headline,
)

LENGTH, HEADS, LAYERS = NANO.max_length, NANO.attention.heads, NANO.layers
WINDOW, SINKS = 16, 4
ORDERS = 5
"""Number of random orders of heads."""


def trained(setting: Setting) -> Decoder:
    """Return nanoGPT's decoder, trained once for all claims."""
    return learn(setting, "nano", Decoder(NANO, rngs=nnx.Rngs(setting.seed)), steps=2000)


def nano(setting: Setting) -> Mapping[str, Measured]:
    """Measure the loss on the validation text, and how far estimates of 20 batches scatter."""
    found = losses(trained(setting), validation(setting, LENGTH))
    draw = np.random.default_rng(setting.seed).integers(0, len(found), (1000, 20 * 12))
    return {
        "validation loss": float(found.mean()),
        "standard deviation of an estimate from 20 batches": float(
            found.mean(1)[draw].mean(1).std()
        ),
    }


def sinks(setting: Setting) -> Mapping[str, Measured]:
    """Measure weights on the first characters, and losses with windows that keep them or not."""
    model = trained(setting)
    rows = validation(setting, LENGTH)
    late = LENGTH // 2
    seen = rows[: setting.pick(256, 2), :-1]
    _, maps = nnx.jit(lambda model, x: model(x, capture=True))(model, seen)
    kept = np.stack([np.asarray(weights)[:, :, late:] for weights in maps.values()])
    shares = kept[..., :SINKS].sum(-1).mean((1, 3))  # layers, heads
    even = float(np.mean([SINKS / (place + 1) for place in range(late, LENGTH)]))

    def loss(mask: MaskFunction | None) -> float:
        for block in model.decoder.blocks:
            block.attention.mechanism.mask_mod = mask
        return float(losses(model, rows)[:, late:].mean())

    return {
        "loss, all characters": loss(None),
        "loss, window": loss(sliding_window(WINDOW)),
        "loss, window and first characters": loss(
            sliding_window(WINDOW - SINKS) | sink_tokens(SINKS)
        ),
        "weight on the first four, mean head": float(shares.mean()),
        "weight on the first four, largest head": float(shares.max()),
        "weight on the first four, even weights": even,
    }


def gated(model: Decoder, gates: Float[Array, "layers N"]) -> Decoder:
    """Return the model with the output of every head multiplied by its gate."""
    copy = nnx.merge(*nnx.split(model))
    for block, gate in zip(copy.decoder.blocks, gates, strict=True):
        kernel = block.attention.mechanism.out.kernel[...]
        by_head = kernel.reshape(HEADS, -1, kernel.shape[1]) * gate[:, None, None]
        block.attention.mechanism.out.kernel = nnx.Param(by_head.reshape(kernel.shape))
    return copy


def importance(model: Decoder, rows: Int[Array, "B T"]) -> Float[np.ndarray, "layers N"]:
    """Return the mean over rows of the size of the loss's derivative by each head's gate (eq. 2).

    Each layer is divided by its norm (section 4.1).
    """

    def loss(gates: Array, row: Array) -> Float[Array, ""]:
        return cross_entropy(gated(model, gates), row[None]).mean()

    slopes = jax.lax.map(lambda row: jax.grad(loss)(jnp.ones((LAYERS, HEADS)), row), rows)
    found = jnp.abs(slopes).mean(0)
    return np.asarray(found / jnp.linalg.norm(found, axis=1, keepdims=True))


def pruned(setting: Setting) -> Mapping[str, Measured]:
    """Remove heads one after another by their importance on training text, and at random."""
    model = trained(setting)
    rows = jnp.asarray(validation(setting, LENGTH)[: setting.pick(128, 2)])
    read = windows(text(setting.data)[0], setting.pick(128, 2), LENGTH)
    scores = importance(model, read(jax.random.key(setting.seed)))
    read_out = nnx.jit(lambda model, gates: cross_entropy(gated(model, gates), rows).mean())

    def loss(gates: Float[np.ndarray, "*heads"]) -> float:
        return float(read_out(model, jnp.asarray(gates.reshape(LAYERS, HEADS))))

    def curve(order: Int[np.ndarray, " heads"]) -> list[float]:
        gates, found = np.ones(LAYERS * HEADS, np.float32), []
        for head in order:
            found.append(loss(gates))
            gates[head] = 0
        return [*found, loss(gates)]

    draw = np.random.default_rng(setting.seed)
    orders = {
        "by importance": [np.argsort(scores.ravel())],
        "at random": [draw.permutation(scores.size) for _ in range(ORDERS)],
    }
    found: dict[str, Measured] = {}
    for name, several in orders.items():
        means = np.mean([curve(order) for order in several], axis=0)
        found |= {f"{name}/{count}": float(means[count]) for count in range(0, 17, 2)}
    alone = 1 - np.eye(scores.size, dtype=np.float32)
    single = [loss(gates) for gates in alone]
    bound = 1.01 * loss(np.ones_like(scores))
    found["heads of 16 that cost under 1 % alone"] = sum(one < bound for one in single)
    return found


def _nano_came(results: Results) -> str:
    loss = results.mean("validation loss")
    spread = results.mean("standard deviation of an estimate from 20 batches")
    return (
        f"Here the loss on all of the validation text is {loss:.3f}; an estimate from 20 random "
        f"batches, as the README's, scatters around it by {spread:.3f}."
    )


def _sinks_came(results: Results) -> str:
    whole, window, kept = (
        results.mean(f"loss, {name}")
        for name in ("all characters", "window", "window and first characters")
    )
    share, even = (
        results.mean(f"weight on the first four, {name}") for name in ("mean head", "even weights")
    )
    return (
        f"The first four characters get {share:.1%} of the weight, where even weights would give "
        f"{even:.1%}; the loss is {whole:.3f} nats with all characters, {window:.3f} with the last "
        f"{WINDOW} and {kept:.3f} with the first {SINKS} and the last {WINDOW - SINKS}."
    )


def _pruned_came(results: Results) -> str:
    whole = results.mean("by importance/0")
    chosen, drawn = (results.mean(f"{name}/4") for name in ("by importance", "at random"))
    alone = results.mean("heads of 16 that cost under 1 % alone")
    return (
        f"Of 16 heads {alone:.1f} cost under 1 % of the loss when removed alone; without four of "
        f"them the loss of {whole:.3f} nats is {chosen:.3f} if they are chosen by importance and "
        f"{drawn:.3f} if at random."
    )


MODEL = "nanoGPT's decoder for a CPU (four layers of width 128, four heads, context 64)"

CLAIMS = (
    Claim(
        name="nanogpt-cpu",
        title="nanoGPT's setting for a CPU reaches 1.88",
        source="Karpathy 2022, README of github.com/karpathy/nanoGPT",
        claimed="A decoder of four layers of width 128 learns the characters of Shakespeare to a "
        "validation loss of 1.88 in 2,000 iterations of 12 windows of 64 characters.",
        setup="its model, data, split and settings of the optimiser; the loss is the mean over the "
        "whole validation text, where the README's is an estimate from 20 random batches.",
        criterion=(headline(below("validation loss", 1.88)),),
        measure=nano,
        came=_nano_came,
        published={"validation loss": 1.88},
        meaning="Attention, blocks and optimiser here train like PyTorch's.",
        otherwise="The published number is an estimate of one run from 15,360 characters; a mean "
        "over the whole text can lie a little above it with the same training.",
        minutes=2,
        needs=(NEEDS,),
        axes=("nats a character", ""),
    ),
    Claim(
        name="attention-sinks",
        title="First tokens are attention sinks that a window must keep",
        source="Xiao et al. 2024, arXiv 2309.17453, figures 2 and 3, tables 1 and 2",
        claimed="Trained language models give much of their attention to the first tokens whatever "
        "they are; a sliding window that drops them ruins the perplexity, and keeping four of them "
        "restores it.",
        setup=f"{MODEL}, trained on windows that begin anywhere; losses and weights of the second "
        f"half of 64 characters, with {WINDOW} keys for each. The paper's models are Llama-2, MPT, "
        "Falcon and Pythia, with thousands of keys.",
        criterion=(
            headline(
                ahead(
                    "weight on the first four, mean head", "weight on the first four, even weights"
                )
            ),
            headline(ahead("loss, window", "loss, window and first characters")),
        ),
        measure=sinks,
        came=_sinks_came,
        meaning="Heads that need nothing put their weight where all queries can see it, at the "
        "first token.",
        otherwise="This small model, briefly trained on short windows that begin anywhere, has "
        "learned no sinks; whether size, longer training or a fixed first token would bring them "
        "was not measured.",
        minutes=2,
        needs=(NEEDS,),
        axes=("nats a character, or share", ""),
    ),
    Claim(
        name="heads-pruned",
        title="Many heads can be removed after training, if chosen by gradients",
        source="Michel, Levy and Neubig 2019, arXiv 1905.10650, sections 3 and 4, figure 3",
        claimed="Most heads can be removed alone without a noticeable loss, and 20 % to 40 % of "
        "all together if those with the smallest gradients go first.",
        setup=f"{MODEL}, 16 heads; importance from gradients of the heads' gates on 128 windows of "
        "training text; loss on 128 windows of validation text; random orders are means of five. "
        "The paper prunes a translator with 288 heads and BERT with 144, and scores by BLEU and "
        "accuracy.",
        criterion=(
            headline(above("heads of 16 that cost under 1 % alone", 9)),
            headline(
                Check(
                    "without 4 of 16 heads by importance the loss is at most 5 % higher",
                    lambda results: results.difference("by importance/4", "by importance/0", 1.05),
                    high=0.0,
                )
            ),
            headline(ahead("at random/4", "by importance/4")),
            headline(ahead("at random/8", "by importance/8")),
        ),
        measure=pruned,
        came=_pruned_came,
        meaning="Heads are redundant after training, and a gradient of a gate tells which.",
        otherwise="Most heads of this model cannot be spared. Those that gradients choose cost "
        "less than others on average, but trainings differ too much to be sure of it.",
        minutes=2.5,
        needs=(NEEDS,),
        axes=("heads removed of 16", "nats a character"),
    ),
)
