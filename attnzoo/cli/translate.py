"""`translate MODEL [FILE]`: translate one sentence per line, from a file or standard input.

MODEL is a run that translates, or a folder of transformers (Marian, BART, mBART, M2M100, T5), whose
generation_config.json gives the defaults.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnzoo.cli.common import (
    Failures,
    add_languages,
    add_trust,
    add_weights,
    compilation_cache,
    open_model,
    require_penalty,
    require_positive,
    run,
)
from attnzoo.cli.texts import add_encoding, decoded
from attnzoo.data.sources import lines_as_they_come
from attnzoo.errors import UserError

if TYPE_CHECKING:
    from attnzoo.tasks.translation import Translation, Translator

CHUNK = 4096  # most lines that are read, sorted by length and translated together


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="translate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="MODEL", help="a run, or a folder")
    parser.add_argument("file", nargs="?", type=Path, help="one sentence a line")
    parser.add_argument(
        "-o", "--output", type=Path, help="where to write (default: standard output)"
    )
    parser.add_argument(
        "--beam", type=int, help="hypotheses; 1: greedy (default: the run's config)"
    )
    parser.add_argument(
        "--length-penalty", type=float, help="exponent alpha (default: the config's)"
    )
    parser.add_argument(
        "--max-length", type=int, help="longest output in tokens (default: the config's)"
    )
    parser.add_argument("--batch-size", type=int, help="sentences together (default: the config's)")
    parser.add_argument("--alignment", type=Path, help="write the Pharaoh links of each line here")
    parser.add_argument("--scores", action="store_true", help="put log-probability and a tab first")
    parser.add_argument(
        "--replace-unknown",
        action="store_true",
        help="put the aligned source word in the place of each unknown word (Luong et al. 2015)",
    )
    parser.add_argument("--which", choices=("best", "latest"), default="best", help="checkpoint")
    add_encoding(parser)
    add_languages(parser)
    add_weights(parser)
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Translate lines; return 1 if some, and 2 if all of them cannot be read."""
    return run(lambda: _translate(parse(argv)))


def _translate(arguments: argparse.Namespace) -> int:
    require_positive(arguments, "beam", "max_length", "batch_size")
    require_penalty(arguments.length_penalty)
    if arguments.file is not None and not arguments.file.exists():
        raise UserError(f"{arguments.file}: no such file")
    _check_outputs(arguments)
    from attnzoo.alignment.links import Links, format_pharaoh

    compilation_cache()
    trained = open_model(arguments.run, arguments)
    decoding = trained.config.decoding
    translator = trained.translator(batch_size=arguments.batch_size)
    failures = Failures()
    source = str(arguments.file or "standard input")
    with contextlib.ExitStack() as stack:
        output = _writer(stack, arguments.output)
        links = _writer(stack, arguments.alignment) if arguments.alignment else None
        encoding = arguments.encoding
        for first, lines in _chunks(arguments.file, encoding):
            texts = [
                decoded(line, f"{source}:{n}", encoding, failures) or ""
                for n, line in enumerate(lines, start=first)
            ]
            results = translator.translate(
                texts,
                beam=arguments.beam or decoding.beam,
                alpha=decoding.length_penalty
                if arguments.length_penalty is None
                else arguments.length_penalty,
                max_length=arguments.max_length or translator.bounded(decoding.max_length),
            )
            for number, (text, result) in enumerate(zip(texts, results, strict=True), start=first):
                if result is None and text.strip():
                    failures.add(f"{source}:{number}", f"{len(text.split()):,} words are too long")
                aligned = set() if result is None else translator.links(result)
                line = "" if result is None else result.text
                if result is not None and arguments.replace_unknown:
                    line = _replace_unknown(translator, result)
                score = "" if result is None else f"{result.log_prob:.4f}"
                print(f"{score}\t{line}" if arguments.scores else line, file=output, flush=True)
                if links is not None:
                    print(format_pharaoh(Links.of(aligned)), file=links, flush=True)
            failures.total += len(lines)
    return failures.status()


def _chunks(file: Path | None, encoding: str = "utf-8") -> Iterator[tuple[int, list[bytes]]]:
    """Yield first line number (from 1) and lines: chunks of a file, or a pipe as it fills."""
    if file is None:
        chunks = lines_as_they_come(sys.stdin.buffer, CHUNK, encoding)
    else:
        from attnzoo.data.sources import read_lines

        lines = read_lines(file, encoding)
        chunks = (lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK))
    first = 1
    for chunk in chunks:
        yield first, chunk
        first += len(chunk)


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Raise a UserError if two arguments name the same file: writing one would empty the other."""
    paths = [arguments.file, arguments.output, arguments.alignment]
    seen: set[Path] = set()
    for path in (path.resolve() for path in paths if path is not None):
        if path in seen:
            raise UserError(f"{path}: named twice, as input or output")
        seen.add(path)


def _writer(stack: contextlib.ExitStack, path: Path | None) -> Any:
    if path is None:
        return sys.stdout
    try:
        return stack.enter_context(path.open("w", encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def _replace_unknown(translator: "Translator", result: "Translation") -> str:
    """Put the aligned source words in the places of unknown words, with the text's spacing."""
    from attnzoo.data.splitting import is_punctuation
    from attnzoo.data.tokenizers import UNKNOWN_LETTER

    ids, unknown = result.target.ids, translator.target_tokenizer.unk_id
    if unknown not in ids:
        return result.text
    source = dict(sorted((t, s) for s, t in translator.links(result, between="tokens")))
    parts = translator.source_tokenizer.parts(result.source)
    places = [place for place, token in enumerate(ids) if token == unknown]
    text = translator.target_tokenizer.decode(ids, unknown=UNKNOWN_LETTER)
    before, *others = text.split(UNKNOWN_LETTER)
    line = before
    for place, after in zip(places, others, strict=True):
        is_part = line[-1:].isalnum() or after[:1].isalnum()
        if is_part or place not in source:
            line += "<unk>" + after
            continue
        word = parts[source[place]]
        marks = "".join(filter(is_punctuation, word))
        word = word.lstrip(marks) if line[-1:].strip() else word  # marks that the target has itself
        word = word.rstrip(marks) if after[:1].strip() else word
        line += word + after
    return line
