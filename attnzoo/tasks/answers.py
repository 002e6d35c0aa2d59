"""Answers found in documents, and their pictures."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from attnzoo.data.questions import QuestionPlan
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.plotting import Figure, Passage, passages


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer to one question, the best of all windows of its document.

    Attributes:
      text: empty if the model says that there is none. span: the best span of the document, also
        where there is no answer. start, end: first and end character of that span.
      score: sum of the logits of start and end. probability: among all spans of all windows.
      null_odds: score of having no answer minus ``score``.
      row: number of the window in which it was found. tokens: first and last token there.
    """

    text: str
    span: str
    start: int
    end: int
    score: float
    probability: float
    null_odds: float
    row: int
    tokens: tuple[int, int]


def picture(model: Any, plan: QuestionPlan, tokenizer: TextTokenizer, answer: Answer) -> Figure:
    """Draw the question and the window of the answer, shaded by what the answer attended to."""
    window = plan.windows[answer.row]
    document = plan.questions.items[window.question].document
    batch = plan.collate(np.asarray([answer.row], np.int64))
    inputs = {name: jnp.asarray(batch[name]) for name in ("segments", "valid")}
    _, maps = model(jnp.asarray(batch["tokens"]), capture=True, **inputs)
    weights = attended(maps, len(batch["tokens"][0]), *answer.tokens)
    offsets = plan.offsets_of(window)
    pieces = [document[a:b] for a, b in offsets]
    tokens = [tokenizer.decode([i]) for i in window.ids[1 : window.border - 1]]
    first, last = (place - window.border for place in answer.tokens)
    return passages(
        [
            Passage("question", tokens, weights[1 : window.border - 1]),
            Passage(
                f"document from character {offsets[0, 0]:,}" if window.first else "document",
                pieces,
                weights[window.border : window.border + len(pieces)],
                boxed=(first, last + 1) if answer.text else None,
            ),
        ],
        title=f"answer: {answer.text or 'none'} (probability {answer.probability:.2f})",
    )


def attended(maps: Mapping[str, Any], T: int, start: int, end: int) -> Float[np.ndarray, " T"]:
    """Return the weights of the tokens for an answer: its mean over heads and the answer's tokens.

    It is read in the last layer of an encoder, and in both directions of bidirectional attention
    flow. Zeros for a model without attention.
    """
    layers = [name for name in maps if name.startswith("encoder/")]
    total = np.zeros(T)
    for name in layers[-1:] or maps:
        rows = np.asarray(maps[name][0], np.float64).mean(0)
        total = total + (rows[start : end + 1].mean(0) if len(rows) > 1 else rows[0])
    return total
