"""`generate MODEL`: continue a prompt, or every line of standard input.

MODEL is a run trained with task.kind=causal_lm, a folder of transformers (or a name on the Hugging
Face hub), or a folder written by `convert`. Prompt and continuation are written to standard output;
several samples of a prompt are separated by a line `---`.

Options that are not given are those of the folder's generation_config.json, as transformers reads
it: greedy unless it has do_sample=true. A folder without one, and a run, draw at temperature 1.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from attnzoo.cli.common import (
    Failures,
    add_trust,
    add_weights,
    add_which,
    compilation_cache,
    open_model,
    require_positive,
    run,
)
from attnzoo.cli.texts import add_encoding, decoded
from attnzoo.data.sources import lines_as_they_come
from attnzoo.errors import UserError

BLOCK = 8  # tokens between two writes of a stream
BATCH = 16  # lines of standard input that are continued together


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="a run, a folder, or a name on the hub")
    parser.add_argument("--prompt", help='"": from nothing (default: lines of standard input)')
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        help="(default: the folder's, else 100; at most what the model has positions for)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="0: the most probable token (default: the folder's, as of all below)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        help="draw from the k most probable tokens, 0: from all (default of transformers, where a "
        "folder has do_sample=true and no top_k: 50)",
    )
    parser.add_argument("--top-p", type=float, help="draw from the fewest tokens of total p")
    parser.add_argument("--min-p", type=float, help="leave out tokens below p of the best")
    parser.add_argument(
        "--repetition-penalty", type=float, help="above 1: earlier tokens become less probable"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    parser.add_argument("--num-samples", type=int, default=1, help="of each prompt (default: 1)")
    parser.add_argument("--stream", action="store_true", help="write while it is generated")
    parser.add_argument(
        "--cache",
        choices=("plain", "window", "int8"),
        default="plain",
        help="keys that multi-head attention keeps: all, those in its window, or all in int8",
    )
    add_which(parser)
    add_encoding(parser)
    add_weights(parser)
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate texts; return 1 if some, and 2 if all of the prompts cannot be continued."""
    return run(lambda: _generate(parse(argv)))


def _generate(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "max_new_tokens", "num_samples")
    if arguments.stream and (arguments.prompt is None or arguments.num_samples > 1):
        raise UserError("--stream: one text at a time; wanted --prompt, and no --num-samples")
    from attnzoo.tasks.language_modeling import CausalLMTask

    compilation_cache()
    writer = open_model(arguments.model, arguments)
    writer.wanted(CausalLMTask)
    failures = Failures()
    try:
        for text in _texts(writer, arguments, failures):
            print(text, end="", flush=True)
    except ValueError as error:  # settings out of range, or a prompt that is too long
        raise UserError(str(error)) from None
    return failures.status()


def _texts(writer: Any, arguments: argparse.Namespace, failures: Failures) -> Iterator[str]:
    """Yield the output, piece by piece."""
    import jax
    import numpy as np

    from attnzoo.decoding.generate import generate, stream

    settings: dict[str, Any] = {
        "sampling": sampling_of(writer, arguments),
        "eos_id": writer.ends,
        "cache": arguments.cache,
    }
    key = jax.random.key(arguments.seed)
    if arguments.stream:
        rows = [writer.prompt_ids(arguments.prompt)]
        ids = np.asarray(rows, np.int32)
        pieces = stream(
            writer.model,
            ids,
            key,
            max_new_tokens=_room(writer, arguments, len(rows[0])),
            block=BLOCK,
            **settings,
        )
        ids_of_pieces = (piece[0, 0].tolist() for piece in pieces)
        yield from _spelled(writer, arguments.prompt, rows[0], ids_of_pieces)
        yield "\n"
        return
    width = 0
    for number, prompts in _prompts(arguments.prompt, arguments.encoding, failures):
        failures.total += len(prompts)
        read = [_ids(writer, arguments, *one, failures) for one in enumerate(prompts, number + 1)]
        ready = [ids for ids in read if ids]
        width = max([width, *map(len, ready)])  # never less, because each is compiled anew
        if not ready:
            yield from "\n" * len(prompts)
            continue
        rows = [ids or ready[0] for ids in read]
        # Any id can pad, since padding is masked. A line has the same row and key, and so the same
        # draws, whichever lines were there in time to be its batch.
        before, block = number % BATCH, number // BATCH
        if arguments.prompt is None:
            rows = [rows[0]] * before + rows + [rows[0]] * (BATCH - before - len(rows))
        found = generate(
            writer.model,
            np.asarray([[row[0]] * (width - len(row)) + row for row in rows], np.int32),
            jax.random.fold_in(key, block) if block else key,
            valid=np.asarray([[False] * (width - len(row)) + [True] * len(row) for row in rows]),
            samples=arguments.num_samples,
            max_new_tokens=_room(writer, arguments, width),
            **settings,
        )
        tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
        for row, prompt in enumerate(prompts, start=before):
            if prompt is None or not read[row - before]:
                yield "\n"
                continue
            for sample in range(arguments.num_samples):
                kept = tokens[row, sample, : lengths[row, sample]].tolist()
                first = number + row + sample == before
                between = "" if first or arguments.num_samples == 1 else "---\n"
                yield f"{between}{spell(writer, prompt, rows[row], kept)}\n"


def _room(writer: Any, arguments: argparse.Namespace, width: int) -> int:
    """Return the number of tokens to write after prompts of this width.

    Raises:
      UserError: the folder's max_length, which counts the prompt, is no longer than it.
    """
    if arguments.max_new_tokens is not None:
        return arguments.max_new_tokens
    wanted = writer.max_new_tokens or 100
    if writer.max_length is not None:
        wanted = writer.max_length - width
    if wanted < 1:
        raise UserError(
            f"{width:,} tokens; the folder's max_length={writer.max_length} counts them too; "
            "wanted --max-new-tokens"
        )
    longest = writer.config.model.longest  # the last token is never read
    return wanted if longest is None else max(1, min(wanted, longest - width + 1))


def _prompts(
    prompt: str | None, encoding: str, failures: Failures
) -> Iterator[tuple[int, list[str | None]]]:
    """Yield prompts with the number, from 0, of the first: lines of standard input as they come.

    A batch never goes beyond a multiple of BATCH. A line that is not in the encoding is None.
    """
    if prompt is not None:
        yield 0, [prompt]
        return
    number = 0
    for lines in lines_as_they_come(sys.stdin.buffer, BATCH, encoding):
        while lines:
            some, lines = lines[: BATCH - number % BATCH], lines[BATCH - number % BATCH :]
            places = (f"standard input:{number + i}" for i in range(1, len(some) + 1))
            yield (
                number,
                [decoded(*one, encoding, failures) for one in zip(some, places, strict=True)],
            )
            number += len(some)


def _ids(
    writer: Any, arguments: argparse.Namespace, number: int, prompt: str | None, failures: Failures
) -> list[int] | None:
    """Return the ids of a prompt; None for a line of standard input that cannot be continued."""
    if prompt is None or arguments.prompt is not None:
        return None if prompt is None else writer.prompt_ids(prompt)
    place = f"standard input:{number}"
    try:
        ids = writer.prompt_ids(prompt)
        _room(writer, arguments, len(ids))
    except UserError as error:
        failures.add(place, str(error))
        return None
    longest, more = writer.config.model.longest, arguments.max_new_tokens or 1
    if longest is None or len(ids) + more - 1 <= longest:
        return ids
    failures.add(place, f"{len(ids):,} tokens and {more:,} more; the model reads {longest:,}")
    return None


def spell(writer: Any, prompt: str, before: Sequence[int], ids: Sequence[int]) -> str:
    """Return a prompt, of ids ``before``, with its continuation as both are decoded together.

    A tokenizer may write the space between them only where it sees both.
    """
    end = next((i for i, token in enumerate(ids) if token in writer.ends), len(ids))
    told, whole = writer.decode(before), writer.decode([*before, *ids[:end]])
    # The prompt stays as it was typed, unless its spelling depends on what follows.
    return prompt + whole[len(told) :] if whole.startswith(told) else whole


def _spelled(
    writer: Any, prompt: str, before: Sequence[int], pieces: Iterator[list[int]]
) -> Iterator[str]:
    """Yield the prompt and what each piece adds, without characters whose bytes are incomplete."""
    yield prompt
    ids: list[int] = []
    written = len(prompt)
    for piece in pieces:
        ids += piece
        ready = spell(writer, prompt, before, ids).rstrip("\ufffd")
        yield ready[written:]
        written = max(written, len(ready))
    yield spell(writer, prompt, before, ids)[written:]


def sampling_of(writer: Any, arguments: argparse.Namespace) -> Any:
    """Return the settings of the command line, others as the folder has them.

    Where the folder is greedy, an option that only a draw can follow draws at temperature 1.
    """
    from attnzoo.decoding.sampling import Sampling

    base = writer.sampling or Sampling(temperature=1.0)
    given = {
        name: getattr(arguments, name)
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        if getattr(arguments, name) is not None
    }
    draws = {"top_k", "top_p", "min_p"} & given.keys() or arguments.num_samples > 1
    if base.temperature is None and draws:
        given.setdefault("temperature", 1.0)
    for name in ("temperature", "top_k"):
        if given.get(name) == 0:
            given[name] = None
    return dataclasses.replace(base, **given)
