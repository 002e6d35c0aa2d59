"""Texts as a run's model reads them, and the position whose answer is explained."""

import argparse
import dataclasses
import string
from collections.abc import Callable
from typing import Any

from attnzoo.data.interactions import names_in
from attnzoo.data.library_tokenizers import between_pair
from attnzoo.errors import UserError

MASK = "[MASK]"


@dataclasses.dataclass(frozen=True)
class TextQuestion:
    """Tokens of a text, with the answer to explain.

    Attributes:
      ids, labels: tokens and their text, special tokens included.
      units: positions of the tokens that can be removed.
      at: position of the explained token; None: the text's class.
      target: explained class or token; None: the model's own answer.
      name: function from a class or token to its text.
      about: description of the answer.
      keywords: further inputs of the model, one row each.
    """

    ids: list[int]
    labels: list[str]
    units: list[int]
    at: int | None
    target: int | None
    name: Callable[[int], str]
    about: str
    specials: dict[str, int]
    keywords: dict[str, list[int]] = dataclasses.field(default_factory=dict)


def _asker(trained: Any, arguments: argparse.Namespace) -> Callable[[str], TextQuestion]:
    """Return what makes a question of a text."""
    from attnzoo.tasks.language_modeling import CausalLMTask, MaskedLMTask
    from attnzoo.tasks.recommendation import RecommendationTask
    from attnzoo.tasks.text_classification import ClassificationTask

    task = trained.task
    if isinstance(task, RecommendationTask):
        return lambda text: _item(task, trained.model, text, arguments)
    askers = {ClassificationTask: _class, CausalLMTask: _next, MaskedLMTask: _masked}
    for kind, ask in askers.items():
        if isinstance(task, kind):
            return lambda text: ask(task, text, arguments)
    hint = f"; predict {arguments.run} INPUT --figures FOLDER draws what it attended to"
    raise UserError(
        f"{arguments.run}: {trained.description} is not explained; wanted "
        "image_classification, sequence_classification, token_classification, causal_lm, "
        f"masked_lm, translation or recommendation{hint if task.predicts else ''}"
    )


def require_explained(trained: Any, arguments: argparse.Namespace) -> None:
    """Raise a UserError for a task without such questions, whatever the text."""
    _asker(trained, arguments)


def question(trained: Any, text: str, arguments: argparse.Namespace) -> TextQuestion:
    """Return the question that one INPUT asks of a run.

    Raises:
      UserError: a text that is empty or too long, a task without such questions, or an unknown
        class, token or position.
    """
    if not text.strip():
        raise UserError(f"{text!r}: an empty text; wanted some words")
    asked = _asker(trained, arguments)(text)
    longest = trained.config.model.longest
    if longest is not None and len(asked.ids) > longest:
        raise UserError(
            f"{text[:40]!r}...: {len(asked.ids)} tokens, the model reads at most {longest}"
        )
    return asked


def _class(task: Any, text: str, arguments: argparse.Namespace) -> TextQuestion:
    tokenizer = task.tokenizer
    cls, sep = tokenizer.special("cls"), tokenizer.special("sep")
    tags = task.head == "token"
    first, _, second = (text, "", "") if tags else text.partition("|||")
    between = between_pair(tokenizer) if second.strip() else ()
    ids = [cls, *tokenizer.encode_ids(first.strip()), *(between or (sep,))]
    border = len(ids)
    if between:
        ids += [*tokenizer.encode_ids(second.strip()), sep]
    at = _place(ids, 1 if arguments.at is None else arguments.at) if tags else None
    if not tags and arguments.at is not None:
        raise UserError("--at: the class of a text has no place")
    labels = token_labels(tokenizer, ids)
    return TextQuestion(
        ids,
        labels,
        _removable(ids, {cls, sep, *between}, text),
        at,
        None if arguments.target is None else class_number(arguments.target, task.names),
        lambda number: task.names[number],
        "class" if at is None else f"tag of {labels[at]}",
        tokenizer.specials,
        {"segments": [int(i >= border) for i in range(len(ids))]},
    )


def _next(task: Any, text: str, arguments: argparse.Namespace) -> TextQuestion:
    tokenizer = task.tokenizer
    begins = [tokenizer.special("bos")] if task.settings.rows == "packed" else []
    ids = begins + tokenizer.encode_ids(text)
    at = _place(ids, len(ids) - 1 if arguments.at is None else arguments.at)
    labels = token_labels(tokenizer, ids)
    return TextQuestion(
        ids[: at + 1],  # later tokens have no effect
        labels[: at + 1],
        _removable(ids[: at + 1], set(begins), text),
        at,
        _token(arguments.target, tokenizer),
        lambda token: repr(token_labels(tokenizer, [token])[0]),
        f"next token after {labels[at]!r}",
        tokenizer.specials,
    )


def _masked(task: Any, text: str, arguments: argparse.Namespace) -> TextQuestion:
    tokenizer = task.tokenizer
    mask, cls, sep = (tokenizer.special(name) for name in ("mask", "cls", "sep"))
    ids = [cls, *_with_masks(tokenizer, text, mask), sep]
    if mask not in ids and arguments.at is None:
        raise UserError(f"{text[:40]!r}: wanted {MASK} in it, where a token is to be guessed")
    at = _place(ids, ids.index(mask) if arguments.at is None else arguments.at)
    return TextQuestion(
        ids,
        token_labels(tokenizer, ids),
        _removable(ids, {cls, sep, mask}, text),
        at,
        _token(arguments.target, tokenizer),
        lambda token: repr(token_labels(tokenizer, [token])[0]),
        f"token at {at}",
        tokenizer.specials,
    )


def _item(task: Any, model: Any, text: str, arguments: argparse.Namespace) -> TextQuestion:
    """Return the question about the item recommended after a history, whose latest part is read."""
    numbers = task.items.numbers(names_in(text))
    ids = numbers[numbers >= 0].tolist()[-task.config.model.longest :]
    if not ids:
        raise UserError(f"{text[:40]!r}: the run knows none of these items")
    at = _place(ids, len(ids) - 1 if arguments.at is None else arguments.at)
    ids = ids[: at + 1]  # later items have no effect
    if arguments.target is not None:
        target = int(task.items.numbers([arguments.target])[0])
        if target < 0:
            raise UserError(f"--target {arguments.target}: the run knows no such item")
    else:
        (best,) = task.recommend(model, [ids], 1)
        target = best[0][0] if best else None
    labels = [task.items.title(number) for number in ids]
    about = f"next item after {labels[-1]}"
    return TextQuestion(ids, labels, list(range(at + 1)), at, target, task.items.title, about, {})


def _with_masks(tokenizer: Any, text: str, mask: int) -> list[int]:
    """Return the ids of a text in which each [MASK] stands for one token.

    Spaces next to [MASK] are tokenised as they would be next to a word: a space may belong to the
    following word, to the hidden token, or be a token itself. To find out, a letter replaces the
    hidden token.
    """
    encode, unknown = tokenizer.encode_ids, tokenizer.specials.get("unk")
    letters = [letter for letter in string.ascii_lowercase if unknown not in encode(letter)]
    parts, ids = text.strip().split(MASK), []
    for number, part in enumerate(parts):
        if number > 0:
            ids.append(mask)
        if number + 1 < len(parts):
            found = encode(part)
            if any(encode(part + letter)[: len(found)] != found for letter in letters):
                part = part.rstrip()
        found = encode(part)
        for letter in letters if number > 0 else []:
            before, both = encode(letter), encode(letter + part)
            if both[: len(before)] == before and both.count(unknown) <= found.count(unknown):
                found = both[len(before) :]
                break
        ids += found
    return ids


def _removable(ids: list[int], special: set[int], text: str) -> list[int]:
    units = [place for place, token in enumerate(ids) if token not in special]
    if not units:
        raise UserError(f"{text!r}: no token of it is in the tokenizer's text; wanted some words")
    return units


def _place(ids: list[int], at: int) -> int:
    if not 0 <= at < len(ids):
        raise UserError(f"--at {at}: the text has the tokens 0 to {len(ids) - 1}")
    return at


def _token(text: str | None, tokenizer: Any) -> int | None:
    """Return the id of a text that is a single token, else None."""
    if text is None:
        return None
    found = tokenizer.encode_ids(text)
    if len(found) != 1:
        pieces = ", ".join(map(repr, token_labels(tokenizer, found))) or "none"
        raise UserError(f"--target {text!r}: wanted one token; these are {len(found)}: {pieces}")
    return found[0]


def class_number(text: str, names: tuple[str, ...]) -> int:
    """Return a class by its name, or by its number if no class has that name."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise UserError(
        f"--target {text}: there are {len(names)} classes, 0 to {len(names) - 1} "
        f"({', '.join(names)})"
    )


def token_labels(tokenizer: Any, ids: list[int]) -> list[str]:
    """Return each token as text; special tokens by name."""
    tokens, special = tokenizer.tokens, set(tokenizer.specials.values())
    labels = []
    for token in ids:
        if token >= len(tokens):  # a model may have more ids than its tokenizer has tokens
            labels.append(f"<{token}>")
            continue
        spelled = tokens[token]
        # A byte-level vocabulary spells bytes with other characters than the text's.
        if tokenizer.kind in ("byte", "byte_bpe", "file") and token not in special:
            text = tokenizer.decode([token])
            spelled = spelled if "\ufffd" in text or not text else text
        labels.append(spelled)
    return labels
