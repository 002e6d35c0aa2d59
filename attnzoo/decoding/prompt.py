"""Tokens that a decoder reads before its output: the start token, a language, a prompt."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from attnzoo.decoding.hypotheses import TokenIds
from attnzoo.decoding.rules import Rules


class Begun(NamedTuple):
    """A search after its prompt.

    Attributes:
        memory: the source as each step reads it.
        state: decoding state before ``token``.
        token: input of the first step, the last token of the prompt.
        language: detected language; None if ``Rules.languages`` is empty.
    """

    memory: Any
    state: Any
    token: Int[Array, " B"]
    language: Int[Array, " B"] | None


def begin(
    model: Any, source: Any, rules: Rules, ids: TokenIds, *, batch: int, max_length: int
) -> Begun:
    """Encode a batch of sources, and read the prompt that the rules say.

    ``model`` is a ``TranslationModel``, with ``extend`` if there is a prompt; ``max_length`` is the
    longest output in tokens.
    """
    memory, state = model.start(source, max_length=max_length + rules.prompt_length)
    token, language = jnp.full((batch,), ids.start, jnp.int32), None
    if rules.languages:
        logits, state, _ = model.step(token, state, memory)
        known = jnp.array(rules.languages, jnp.int32)
        token = language = known[jnp.argmax(logits[:, known], axis=1)]
    if rules.prompt:
        fixed = jnp.broadcast_to(jnp.array(rules.prompt, jnp.int32), (batch, len(rules.prompt)))
        read = jnp.concatenate([token[:, None], fixed], axis=1)
        _, state, _ = model.extend(read[:, :-1], state, memory)
        token = read[:, -1]
    return Begun(memory, state, token, language)
