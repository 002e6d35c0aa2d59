"""Attention with fewer keys, or none: grouped queries, synthesizers."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnzoo.attention.synthesizer import Synthesizer
from attnzoo.config.attention import MultiHeadConfig
from attnzoo.module import Module
from reproductions.characters import NEEDS, SMALL, SMALL_SETUP, Decoder, learn, losses, validation
from reproductions.claim import (
    Check,
    Claim,
    Measured,
    Results,
    Setting,
    ahead,
    close,
    headline,
)

HEADS = SMALL.attention.heads
LENGTH = SMALL.max_length
GROUPS = (1, 2, 4)
"""Numbers of heads of keys and values."""
CACHE = "bytes of cache a character, heads"
KINDS = ("dense", "random", "fixed_random")


class RandomScores(Module):
    """Learned logit of each head and pair of positions, added to the scores of dot products."""

    def __init__(self, *, rngs: nnx.Rngs):
        table = jax.random.normal(rngs.params(), (HEADS, LENGTH, LENGTH), jnp.float32)
        self.table = nnx.Param(table)

    def __call__(
        self,
        score: Float[Array, "..."],
        b: Int[Array, "..."],
        n: Int[Array, "..."],
        q: Int[Array, "..."],
        k: Int[Array, "..."],
    ) -> Float[Array, "..."]:
        return score + self.table[...][n, q, k]


def synthesizers(setting: Setting) -> Mapping[str, Measured]:
    """Train decoders whose logits come from dot products, from one token, or from no content."""
    found: dict[str, Measured] = {}
    rows = validation(setting, LENGTH)
    for kind in ("dot products", *KINDS, "random and dot products"):
        rngs = nnx.Rngs(setting.seed)
        model = Decoder(SMALL, rngs=rngs)
        for block in model.decoder.blocks:
            if kind in KINDS:
                block.attention.mechanism = Synthesizer(SMALL.dim, LENGTH, HEADS, kind, rngs=rngs)
            elif kind != "dot products":
                block.attention.mechanism.score_mod = nnx.data(RandomScores(rngs=rngs))
        label = "small learned" if kind == "dot products" else f"small {kind}"
        name = kind.replace("_", " ")
        found[name] = float(losses(learn(setting, label, model), rows).mean())
    return found


def groups(setting: Setting) -> Mapping[str, Measured]:
    """Train decoders whose query heads share keys and values of fewer heads."""
    found: dict[str, Measured] = {}
    sizes: dict[str, Measured] = {}
    rows = validation(setting, LENGTH)
    for heads in GROUPS:
        attention = MultiHeadConfig(num_heads=HEADS, num_kv_heads=heads)
        config = dataclasses.replace(SMALL, attention=attention)
        model = Decoder(config, rngs=nnx.Rngs(setting.seed))
        label = "small learned" if heads == HEADS else f"small {heads} key heads"
        found[f"loss/{heads}"] = float(losses(learn(setting, label, model), rows).mean())
        caches = model.start(1, LENGTH).caches
        arrays = [leaf for leaf in jax.tree.leaves(caches) if leaf.ndim == 4]
        sizes[f"{CACHE}: {heads}"] = sum(a.nbytes for a in arrays) / LENGTH
    return found | sizes


def _synthesizers_came(results: Results) -> str:
    first, *others = results.names
    told = ", ".join(f"{results.mean(name):.3f} with {name}" for name in others)
    return f"The loss is {results.mean(first):.3f} nats with {first}, {told}."


def _groups_came(results: Results) -> str:
    told = ", ".join(f"{results.mean(f'loss/{heads}'):.3f} with {heads}" for heads in GROUPS)
    costs = [results.difference(f"loss/{n}", f"loss/{2 * n}")[0] for n in GROUPS[:-1]]
    few, many = (results.mean(f"{CACHE}: {n}") for n in GROUPS[::2])
    return (
        f"By the number of heads of keys and values the loss is {told}: two cost {costs[1]:.4f} "
        f"nats more than four, one {costs[0]:.4f} more than two. The cache of a character takes "
        f"{few:,.0f} to {many:,.0f} bytes."
    )


CLAIMS = (
    Claim(
        name="synthesizers",
        title="Attention without keys comes within a tenth of a nat of dot products",
        source="Tay et al. 2021, arXiv 2005.00743, abstract and section 4",
        claimed="Weights made of one token (dense) or of positions alone (random) are competitive "
        "with those of queries and keys, weights that are random and never trained are not, and "
        "both kinds together are better than dot products.",
        setup=f"{SMALL_SETUP}. The paper's models translate, write and classify, with up to 512 "
        "places; its mixtures weigh the two kinds by learned shares, where they are summed here. "
        "It does not say what is competitive: 0.1 nats, 4% of the loss, is a choice.",
        criterion=(
            headline(close("dense", "dot products", 0.1)),
            headline(close("random", "dot products", 0.1)),
            ahead("fixed random", "random"),
            ahead("dot products", "random and dot products"),
        ),
        measure=synthesizers,
        came=_synthesizers_came,
        meaning="For the near context of a text, a key's place says nearly as much as the key.",
        otherwise="For characters, weights of one token are just as close as was asked, weights of "
        "positions alone are not, and both kinds together are not seen to be better.",
        minutes=1,
        needs=(NEEDS,),
        axes=("nats a character", ""),
    ),
    Claim(
        name="grouped-queries",
        title="Groups of queries that share keys lose little",
        source="Ainslie et al. 2023, arXiv 2305.13245, section 3.2 and figure 3",
        claimed="Queries that share keys and values in groups are nearly as good as multi-head "
        "attention with a far smaller cache, and better than with a single head of keys.",
        setup=f"{SMALL_SETUP}, trained from scratch, with 4, 2 or 1 heads of keys and values, "
        "and so fewer parameters. The paper averages heads of trained T5 models, goes on training, "
        "and scores summaries, translations and answers.",
        criterion=(
            headline(close("loss/2", "loss/4", 0.03)),
            ahead("loss/1", "loss/2"),
            Check(
                "two heads of keys and values need half of the cache of four",
                lambda results: results.difference(f"{CACHE}: 4", f"{CACHE}: 2", 2),
                low=0.0,
                high=0.0,
                certain="a cache has the size of its heads",
            ),
        ),
        measure=groups,
        came=_groups_came,
        meaning="Each halving of the heads of keys costs about as much, and little: by the margin "
        "that calls two as good as four (0.03 nats), one is as good as two.",
        otherwise="The cache shrinks as promised; the losses of a model of this size are ordered "
        "otherwise, or lie too close together to be ordered.",
        minutes=0.5,
        seeds=5,
        needs=(NEEDS,),
        axes=("heads of keys and values", "nats a character"),
    ),
)
