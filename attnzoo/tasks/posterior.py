"""Alignment of known pairs by posterior attention, which has seen the target word.

The weights of a step are computed before its word is known: they are a prior. Bayes' rule with the
probability of the word given each source position alone makes them a posterior (Shankar and
Sarawagi, "Posterior Attention Models for Sequence to Sequence Learning", ICLR 2019; Deng et al.,
"Latent Alignment and Variational Attention", NeurIPS 2018, arXiv 1807.03756). Nothing is trained.
"""

import copy
import functools
from collections.abc import Sequence

import jax
from flax import nnx

from attnzoo.errors import UserError
from attnzoo.models.rnn_seq2seq import RecurrentTranslator
from attnzoo.tasks.translation import ForcedDecoding, Progress, Translator

EXPONENT = 0.5
"""Exponent of the prior by default, chosen on the validation part of the Bible verses."""


def read_posterior(
    translator: Translator,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    exponent: float = EXPONENT,
    progress: Progress | None = None,
) -> list[ForcedDecoding | None]:
    """Score known pairs, with the posterior of each source token in place of attention.

    Row t of ``weights`` belongs to target token t and sums to 1, the end token of the source
    included: ``translator.links(result, timing="predicted")``. A batch is read once; the readout
    over the target vocabulary is computed for each source position, one after the other, so that
    memory does not grow with the source. None if a side is empty or too long.

    Raises:
      UserError: a model that is not recurrent, or attention without explicit weights of values.
    """
    model = translator.model
    if not isinstance(model, RecurrentTranslator):
        raise UserError(
            f"posterior: {type(model).__name__} has no readout of one source position; wanted a "
            "recurrent translator (bahdanau, luong)"
        )
    graph, _ = nnx.split(model)
    reader = copy.copy(translator)
    reader._force = jax.jit(functools.partial(_posterior, graph, exponent))
    try:
        return reader.force(sources, targets, progress=progress)
    except NotImplementedError as error:
        raise UserError(str(error)) from error


def _posterior(graph, exponent, state, source, target):
    return nnx.merge(graph, state).posterior(source, target, exponent=exponent)
