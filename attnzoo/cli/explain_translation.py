"""Where a translator looks, which source words it needs, and whether the one is the other."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from attnzoo.cli.align_read import METHODS, Reader
from attnzoo.errors import UserError

FILLS = ("zero", "mean", "unk")


def explain(trained: Any, arguments: argparse.Namespace) -> int:
    """Figures, a page and numbers for each sentence."""
    if getattr(getattr(trained.config.model, "attention", None), "kind", "") == "none":
        raise UserError(f"{arguments.run}: model.attention=none, so it attends to nothing")
    for option in ("target", "at"):
        if getattr(arguments, option) is not None:
            raise UserError(
                f"--{option} is for texts; wanted 'source ||| target' to explain a translation"
            )
    fill = arguments.fill or "zero"
    if fill not in FILLS:
        raise UserError(f"--fill {fill}: wanted {', '.join(FILLS)}")
    reverse = _load_reverse(arguments)
    translator = trained.translator(layer=arguments.layer, head=arguments.head)
    for number, text in enumerate(arguments.inputs, start=1):
        pair = _Pair(trained, translator, text, fill, arguments)
        pair.print()
        name = f"translation-{number}"
        pair.draw(arguments.out / name)
        pair.page(arguments.html or arguments.out / f"{name}.html", reverse)
    print(f"written: {arguments.out}")
    return 0


def _load_reverse(arguments: argparse.Namespace) -> Any:
    if arguments.reverse is None:
        return None
    from attnzoo.training.run import load_run

    return load_run(arguments.reverse, which=arguments.which)


class _Pair:
    """A source and a target, what was read off them, and how far it is true."""

    def __init__(
        self, trained: Any, translator: Any, text: str, fill: str, arguments: argparse.Namespace
    ):
        import numpy as np

        from attnzoo.tasks.erasure import deletion_areas

        source, known, target = (part.strip() for part in text.partition("|||"))
        self.source_text = source
        if known and not target:
            raise UserError(f"{text!r}: no target behind |||")
        if not known:
            target = _translate(trained, translator, source)
        self.target_text = target
        readers = {m: Reader(translator, m, fill=fill) for m in METHODS}
        read = {m: reader.read([source], [target])[0] for m, reader in readers.items()}
        if read["attention"] is None:
            _refuse(translator, source, target)
        self.forced = read["attention"]
        self.matrices = {m: readers[m].matrix(read[m]) for m in METHODS}
        self.links = {m: readers[m].links([read[m]])[0] for m in METHODS}
        shape = self.matrices["attention"].shape
        coin = np.random.default_rng(arguments.seed)
        draws = {f"random {n}": coin.random(shape) for n in range(max(arguments.draws // 4, 1))}
        areas = deletion_areas(translator, source, target, {**self.matrices, **draws}, fill=fill)
        self.areas = {m: float(areas[m].mean()) for m in METHODS}
        self.areas["random"] = float(np.mean([areas[name].mean() for name in draws]))
        self.maps, self.tokens = token_maps(translator, self.forced)
        self.erased = read["erasure"]

    def print(self) -> None:
        """The translation, links and numbers."""
        from attnzoo.alignment.scores import matrix_shape

        print(f"{self.source_text} ||| {self.target_text}")
        print(f"log-probability {self.forced.log_probs.sum():.3f}")
        print(
            f"  {'':<10} {'deletion':>8} {'diagonality':>12} {'entropy':>8} {'/ log S':>8} "
            f"{'covered':>8}"
        )
        for name, matrix in self.matrices.items():
            shape = matrix_shape([matrix])
            print(
                f"  {name:<10} {self.areas[name]:8.3f} {shape.diagonality:12.3f} "
                f"{shape.entropy:8.3f} {shape.relative_entropy:8.3f} {shape.covered:8.3f}"
            )
        print(f"  {'random':<10} {self.areas['random']:8.3f}")
        sources, targets = self.forced.source.words, self.forced.target.words
        by_target: dict[str, dict[int, list[str]]] = {}
        for name, links in self.links.items():
            for i, j in sorted(links):
                by_target.setdefault(name, {}).setdefault(j, []).append(sources[i])
        wide = max(map(len, targets))
        print(f"  {'word':<{wide}}  by attention, by erasure")
        for j, word in enumerate(targets):
            looks = [" ".join(by_target.get(m, {}).get(j, ["-"])) for m in METHODS]
            print(
                f"  {word:<{wide}}  {looks[0]}" + ("" if looks[0] == looks[1] else f", {looks[1]}")
            )

    def _judged(self, name: str) -> str:
        return f"deletion {self.areas[name]:.2f}, random {self.areas['random']:.2f}"

    def draw(self, path: Path) -> None:
        """Both matrices side by side, and every head of every layer."""
        from attnzoo import plotting

        words = self.forced.source.words, self.forced.target.words
        pictures = [
            plotting.AlignmentPicture(matrix, *words, None, f"{name}: {self._judged(name)}")
            for name, matrix in self.matrices.items()
        ]
        figures = {"alignment": plotting.alignment_grid(pictures)}
        source, target = self.tokens
        cross = {name: w for name, w in self.maps.items() if not name.endswith("/self")}
        sides = {"heads": (cross, target, source)}
        encoder = {name: w for name, w in self.maps.items() if name.startswith("encoder/")}
        if encoder:
            sides["encoder"] = (encoder, source, source)
        note = f"alignment by attention: {self._judged('attention')}; less is better"
        for name, (maps, rows, columns) in sides.items():
            lines = {
                f"layer {n}": {f"head {h}": one for h, one in enumerate(weights)}
                for n, weights in enumerate(maps.values())
            }
            title = "cross-attention" if name == "heads" else "self-attention of the encoder"
            figures[name] = plotting.map_grid(lines, rows, columns, title=title, note=note)
        for name, figure in figures.items():
            for suffix in (".png", ".svg"):
                plotting.save(figure, path.with_name(f"{path.name}-{name}{suffix}"))

    def page(self, path: Path, reverse: Any) -> None:
        """The page in which the maps are explored; frames are the links by erasure."""
        from attnzoo.alignment.extract import links_from_weights
        from attnzoo.explain.page import translation_page

        source, target = self.tokens
        S, T = len(self.forced.source.ids), len(self.forced.target.ids)
        links = links_from_weights(self.erased.weights, range(S), range(T))
        back = None
        if reverse is not None:
            other = reverse.translator()
            (forced,) = other.force([self.target_text], [self.source_text])
            if forced is None:
                _refuse(other, self.target_text, self.source_text)
            back, (there, here) = token_maps(other, forced)
            if (len(here), len(there)) != (len(source), len(target)):
                raise UserError(
                    f"--reverse: its tokenizers make {len(here)} and {len(there)} tokens of the "
                    f"pair, this run's {len(source)} and {len(target)}; wanted the same"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        title = f"{self.source_text} / {self.target_text}"
        try:
            page = translation_page(
                self.maps, source, target, reverse=back, title=title, links=links
            )
        except ValueError as error:  # larger than a page may be
            raise UserError(f"{title[:60]!r}: {error}") from None
        page.save(path)


def token_maps(translator: Any, forced: Any) -> tuple[dict[str, Any], tuple[list[str], list[str]]]:
    """All maps of a pair, ``N T S``, and the tokens of both sides, ends included.

    Rows of a target are the tokens that are predicted; so that columns of the decoder's
    self-attention are the same tokens, they are moved by one: the first, which is the beginning of
    the sentence, is left out, and the last is 0.
    """
    import jax.numpy as jnp
    import numpy as np

    from attnzoo.explain.capture import capture_attention
    from attnzoo.special_tokens import BOS, EOS

    source = jnp.asarray([[*forced.source.ids, EOS]], jnp.int32)
    target = jnp.asarray([[BOS, *forced.target.ids]], jnp.int32)
    _, found = capture_attention(translator.model, source, target)
    maps = {name: np.asarray(weights[0], np.float32) for name, weights in found.items()}
    for name, weights in maps.items():
        if name.startswith("decoder/") and name.endswith("/self"):
            maps[name] = np.pad(weights[:, :, 1:], ((0, 0), (0, 0), (0, 1)))
    sides = (
        _labels(translator.source_tokenizer, forced.source),
        _labels(translator.target_tokenizer, forced.target),
    )
    return maps, sides


def _labels(tokenizer: Any, encoding: Any) -> list[str]:
    """Words where they are one token, else pieces; and the end."""
    from attnzoo.data.splitting import strip_marks

    single = len(encoding.ids) == len(set(encoding.word_ids))
    tokens = tokenizer.tokens
    pieces = [strip_marks(tokens[i]) or tokens[i] for i in encoding.ids]
    words = [encoding.words[w] for w in encoding.word_ids]
    return [*(words if single else pieces), "</s>"]


def _translate(trained: Any, translator: Any, source: str) -> str:
    from attnzoo.cli.align_report import search_settings

    (result,) = translator.translate([source], **search_settings(trained))
    if result is None:
        _refuse(translator, source, "?")
    if not result.text.strip():
        raise UserError(
            f"{source!r}: translated as nothing; give a translation: 'source ||| target'"
        )
    return result.text


def _refuse(translator: Any, source: str, target: str) -> NoReturn:
    """Say why a pair cannot be read."""
    sides = (
        ("source", translator.source_tokenizer, source),
        ("target", translator.target_tokenizer, target),
    )
    for side, tokenizer, text in sides:
        count = len(tokenizer.encode(text).ids)
        if not count:
            raise UserError(f"{text!r}: an empty {side}; wanted some words")
        if count >= translator.max_source:
            raise UserError(
                f"{text[:40]!r}...: {count} tokens of {side}, wanted at most "
                f"{translator.max_source - 1}"
            )
    raise UserError(f"{source!r}: cannot be read")
