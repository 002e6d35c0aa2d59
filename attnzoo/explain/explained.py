"""One call that explains: scores by every method, their faithfulness, figures and a page."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnzoo import plotting
from attnzoo.explain.capture import capture_attention, map_shapes
from attnzoo.explain.explanations import EXPLANATIONS, ON_REQUEST, named
from attnzoo.explain.faithfulness import deletion, insertion
from attnzoo.explain.page import image_page, text_page, translation_page
from attnzoo.explain.page_parts import Page
from attnzoo.explain.question import Explanation, Question
from attnzoo.explain.rollout import rollout
from attnzoo.explain.target import Target
from attnzoo.explain.tokens import token_question, token_tables, translation_question
from attnzoo.explain.vit import image_question
from attnzoo.models.vit import ViT

STEPS = 18
"""Points of a curve, at most: a ViT-B has 196 patches."""
ROWS = 128
"""Examples with units taken away that are read together."""


class Faithfulness(NamedTuple):
    """Areas under the curves of an explanation, an example each, beside those of random orders.

    The curve is the answer's probability while patches or tokens are taken away, the most important
    first (deletion: less is better), or put in (insertion: more is better). Of a translation ``B
    T``, a number for each target token; NaN at padding.
    """

    deletion: Float[np.ndarray, "B ..."]
    insertion: Float[np.ndarray, "B ..."]
    random_deletion: Float[np.ndarray, "B ..."]
    random_insertion: Float[np.ndarray, "B ..."]

    def of(self, example: int) -> "Faithfulness":
        """Means over the target tokens of one example, or its numbers."""
        return Faithfulness(*(np.nanmean(areas[example]) for areas in self))

    def __str__(self) -> str:
        mine, random = np.nanmean(self.deletion), np.nanmean(self.random_deletion)
        return f"deletion {mine:.2f}, random {random:.2f}"


def explain(
    model: nnx.Module,
    inputs: Any,
    *,
    methods: Sequence[str | Explanation] | None = None,
    target: Target | None = None,
    at: Any = None,
    units: Any = None,
    fill: str | float | int | None = None,
    faithfulness: bool = True,
    key: Key[Array, ""] | None = None,
    draws: int = 20,
    layer: int | None = None,
    head: int | None = None,
    **keywords: Any,
) -> "Explained":
    """Explain what a model says of each example by every explanation that applies.

    Args:
      model: a ``ViT``, or a model of text: an encoder, a decoder or a translator.
      inputs: images ``B h w C``, tokens ``B T``, or (source ``B S``, target ``B T + 1`` from BOS to
        EOS), padded with 0; every target token is explained.
      methods: names of ``EXPLANATIONS``, your own as "package.module:Name", or callables from a
        ``Question`` to scores; None: all that are not slow.
      target: the class or token that is explained, one for all or an example each, or a function
        from the output to a number an example; None: the model's own answer.
      at: the token whose answer is explained, of a model that says something at every token; None:
        of a causal model the last that is no padding.
      units: ``B T``, the number of the unit (such as the word) of each token, -1 where it is never
        taken away; None: each token alone.
      fill: what takes the place of what is taken away: "mean" (default), "blur" or a number of
        patches; "zero" (default), "mean" or the id of a token.
      faithfulness: False leaves the areas out, which cost the most.
      key: of all noise and random orders; ``jax.random.key(0)`` if None.
      draws: random orders, and steps of methods that average.
      layer, head: of text, whose raw attention "attention_mean" is; the last layer (of a translator
        that which aligns) and the mean of the heads if None.
      keywords: what else the model is called with, such as ``valid``.

    Returns:
      The scores as ``maps``; explanations that do not apply are in ``skipped`` with the reason.

    Raises:
      ValueError: a method, class, token, layer or head that there is not.
      NotImplementedError: a model of another kind.

    Example:
      result = explain(model, images, methods=("rollout", "cdam"), target=3)
      result.maps["cdam"], result.faithfulness["cdam"].deletion, result.figure()
    """
    arrays = tuple(jnp.asarray(x) for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
    B = arrays[0].shape[0]
    given = {n: jnp.asarray(v) for n, v in keywords.items() if v is not None}
    function = target if callable(target) else None
    classes = None if target is None or callable(target) else jnp.asarray(target, jnp.int32)
    kind, ask = _kind(model)
    question = ask(
        model,
        *arrays,
        keywords={n: jnp.broadcast_to(v, (B, *v.shape[1:])) for n, v in given.items()},
        classes=None if classes is None else jnp.broadcast_to(classes, (B,)),
        function=function,
        at=at,
        units=units,
        fill=fill,
        key=jax.random.key(0) if key is None else key,
        draws=draws,
        layer=layer,
        head=head,
    )
    _check_shown(question)
    probabilities = None
    if function is None:
        probabilities = np.asarray(_probabilities(question))
        if question.classes is None:
            own = probabilities.argmax(axis=-1)
            question = dataclasses.replace(question, classes=jnp.asarray(own, jnp.int32))
        _check_classes(question.classes, probabilities.shape[-1])
    wanted = EXPLANATIONS if methods is None else methods
    chosen = [
        pair for pair in named(list(wanted)) if methods is not None or pair[0] not in ON_REQUEST
    ]
    found = _found(question, tuple(chosen))
    maps = {n: np.asarray(found.scores[n]) for n, _ in chosen if n in found.scores}
    return kind(
        question,
        maps,
        dict(found.skipped) | ({} if methods is not None else ON_REQUEST),
        _faithfulness(question, maps) if faithfulness and maps else {},
        probabilities,
    )


def _kind(model: nnx.Module) -> tuple[type["Explained"], Callable[..., Question]]:
    roles = token_tables(model)
    if isinstance(model, ViT):
        return ImagesExplained, image_question
    if "source" in roles:
        return TranslationsExplained, translation_question
    if "tokens" in roles:
        return TextsExplained, token_question
    raise NotImplementedError(
        f"{type(model).__name__} is not explained: wanted a ViT, or a model of text whose "
        "token_tables name its tables of tokens"
    )


def _check_classes(classes: Int[Array, "B ..."], count: int) -> None:
    wrong = [int(c) for c in np.ravel(np.asarray(classes)) if not 0 <= c < count]
    if wrong:
        raise ValueError(f"target={wrong[0]}; there are {count} classes, 0 to {count - 1}")


def _check_shown(question: Question) -> None:
    """ValueError for a layer or head that there is not."""
    if question.layer is None and question.head is None:
        return
    _, shapes = map_shapes(question.model, question.inputs, question.keywords)
    names = question.readable(shapes)
    heads = shapes[names[0]].shape[1]
    for name, value, count in (
        ("layer", question.layer, len(names)),
        ("head", question.head, heads),
    ):
        if value is not None and not 0 <= value < count:
            raise ValueError(f"{name}={value}: there are {count} {name}s, 0 to {count - 1}")


@jax.jit
def _probabilities(question: Question) -> Float[Array, "B *T V"]:
    return jax.nn.softmax(question.logits(question.output).astype(jnp.float32), axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Found:
    scores: dict[str, Any]
    skipped: tuple[tuple[str, str], ...] = dataclasses.field(metadata={"static": True})


@functools.partial(jax.jit, static_argnames="methods")
def _found(question: Question, methods: tuple[tuple[str, Explanation], ...]) -> _Found:
    scores, skipped = question.scores(methods)
    return _Found(scores, tuple(skipped.items()))


@functools.partial(jax.jit, static_argnames="steps")
def _areas(question: Question, rows: Any, importance: Any, steps: int) -> tuple[Any, ...]:
    some = question.of_rows(rows)
    each: dict[str, Any] = {"steps": steps, "units": some.unit_count}
    return tuple(curve(some.kept, importance, **each).area for curve in (deletion, insertion))


def _faithfulness(question: Question, maps: Mapping[str, Any]) -> dict[str, Faithfulness]:
    """The areas of every explanation, many orders of many examples together."""
    cases, shape = question.cases(), next(iter(maps.values())).shape
    C, U = cases.units.shape[0], question.count
    each = C // shape[0]
    orders = max(1, question.draws // each)
    # An order's numbers do not depend on how long others of the batch are.
    keys = jax.random.split(jax.random.fold_in(question.key, 1), orders)
    per_case = jax.vmap(lambda key: jax.random.split(key, each))(keys)
    drawn = jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (U,))))(per_case)[:, None]
    random = jnp.broadcast_to(drawn, (orders, shape[0], each, U)).reshape(orders, C, U)
    random = jnp.where(cases.has_unit[None], random, jnp.nan)
    known = [cases.gather(jnp.asarray(scores).reshape(C, -1)) for scores in maps.values()]
    importance = np.concatenate([np.stack(known), np.asarray(random)]).reshape(-1, U)
    count = len(importance)
    rounds = -(-count // ROWS)
    rows = np.arange(rounds * -(-count // rounds)) % count
    parts = [
        _areas(cases, part % C, importance[part], steps=min(STEPS, U))
        for part in np.split(rows, rounds)
    ]
    both = np.stack([np.concatenate(areas)[:count] for areas in zip(*parts)])
    both = both.reshape(2, -1, *shape[:-1])
    if len(shape) == 3:
        both[..., np.asarray(question.classes) == 0] = np.nan
    mean = both[:, len(maps) :].mean(axis=1)
    return {name: Faithfulness(*both[:, i], *mean) for i, name in enumerate(maps)}


@dataclasses.dataclass(frozen=True)
class Explained:
    """Explanations of a batch of answers.

    Attributes:
      question: what was asked, with the model.
      maps: scores by explanation, more is more important: ``B P`` of patches or tokens, ``B T S``
        of a translation's target tokens by its source tokens; 0 at padding.
      skipped: why each other explanation does not apply.
      faithfulness: areas by explanation.
      probabilities: of all classes or tokens, ``B V``, or ``B T V``; None where the target was a
        function.
    """

    question: Question = dataclasses.field(repr=False)
    maps: dict[str, Float[np.ndarray, "B ..."]] = dataclasses.field(repr=False)
    skipped: dict[str, str]
    faithfulness: dict[str, Faithfulness] = dataclasses.field(repr=False)
    probabilities: Float[np.ndarray, "B ..."] | None = dataclasses.field(repr=False)

    figures: ClassVar[Any]
    """Every figure of an example by name; the class says which drawing arguments there are."""
    page: ClassVar[Any]
    """A page to explore an example in, of the same arguments."""

    @property
    def target(self) -> Int[np.ndarray, "B ..."]:
        """The class or token that is explained."""
        return np.asarray(self.question.classes)

    def best_first(self, example: int = 0) -> list[str]:
        """The explanations of an example, the smallest area of deletion first."""
        if not self.faithfulness:
            return list(self.maps)
        return sorted(self.maps, key=lambda name: self.faithfulness[name].of(example).deletion)

    def attention(self, example: int = 0) -> dict[str, Float[np.ndarray, "N T S"]]:
        """Return the weights of every attention of the model, of one example, by name."""
        one = self.question.of_rows(np.asarray([example]))
        _, maps = capture_attention(one.model, *one.inputs, **one.keywords)
        return {name: np.asarray(weights[0], np.float32) for name, weights in maps.items()}

    def figure(self, example: int = 0, **drawing: Any) -> plotting.Figure:
        """The first of :meth:`figures`: the scores of every explanation."""
        return next(iter(self.figures(example, **drawing).values()))

    def _note(self, name: str, example: int) -> str:
        areas = self.faithfulness.get(name)
        return "" if areas is None else str(areas.of(example))

    def _judged(self, name: str, example: int) -> str:
        note = self._note(name, example)
        return f"areas by {name.replace('_', ' ')}: {note}; less is better" if note else ""

    def _heads(self, maps: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {
            f"layer {n}": {f"head {h}": one for h, one in enumerate(weights)}
            for n, weights in enumerate(maps.values())
        }


class ImagesExplained(Explained):
    """Explanations of images by their patches.

    Figures and pages take ``image``, ``H W C`` as it was before it was normalised (uint8 or 0 to 1;
    None: the input, stretched to that), a ``title``, and a patch to be ``marked``, (row, column).
    """

    def figures(
        self,
        example: int = 0,
        *,
        image: Any = None,
        title: str = "",
        marked: tuple[int, int] | None = None,
        marking: str = "marked",
    ) -> dict[str, plotting.Figure]:
        """Every explanation laid over the image; what is read by layer and head ("heads")."""
        light, grid = self._light(example, image), self._grid
        panels = [
            plotting.Overlay(
                name, self.maps[name][example].reshape(grid), self._areas(name, example)
            )
            for name in self.best_first(example)
        ]
        reading, prefix = np.asarray(self.question.reading[example]), self.question.prefix
        read = {
            name: np.einsum("t,nts->ns", reading, weights)[:, prefix:].reshape(-1, *grid)
            for name, weights in self.attention(example).items()
        }
        heads = plotting.patch_grid(
            light,
            self._heads(read),
            title=f"{title}: what the answer is read from".lstrip(": "),
            note=self._judged("attention_mean", example),
        )
        overlays = plotting.overlays(light, panels, title=title, marked=marked, marking=marking)
        return {"": overlays, "heads": heads}

    def page(self, example: int = 0, *, image: Any = None, title: str = "", **_: Any) -> Page:
        """The image, its attention and every explanation."""
        scores = {
            name: (self.maps[name][example], self._note(name, example))
            for name in self.best_first(example)
        }
        light = self._light(example, image)
        maps = self.attention(example)
        return image_page(light, maps, self._grid, explanations=scores, title=title)

    def _areas(self, name: str, example: int) -> str:
        if name not in self.faithfulness:
            return ""
        areas = self.faithfulness[name].of(example)
        return (
            f"del {areas.deletion:.2f} ({areas.random_deletion:.2f} random)\n"
            f"ins {areas.insertion:.2f} ({areas.random_insertion:.2f})"
        )

    @property
    def _grid(self) -> tuple[int, int]:
        images = self.question.inputs[0]
        patch = self.question.model.config.patch
        return images.shape[1] // patch, images.shape[2] // patch

    def _light(self, example: int, image: Any) -> Float[np.ndarray, "h w C"]:
        """The image as numbers of 0 to 1."""
        if image is None:
            pixels = np.asarray(self.question.inputs[0][example], np.float64)
            reach = np.ptp(pixels)
            return (pixels - pixels.min()) / (reach if reach > 0 else 1)
        pixels = np.asarray(image)
        return pixels / 255 if pixels.dtype == np.uint8 else pixels.astype(np.float64)


class TextsExplained(Explained):
    """Explanations of texts by their tokens.

    Figures and pages take ``labels``, a string a token (None: its id), and a ``title``. Only tokens
    that can be taken away are coloured: a class token's own share is often all.
    """

    def figures(
        self, example: int = 0, *, labels: Sequence[str] | None = None, title: str = ""
    ) -> dict[str, plotting.Figure]:
        """The text coloured by every explanation; the heads of every layer; layers and rollout."""
        names = self._labels(example, labels)
        rows = [
            plotting.TokenRow(name, self.shown(name, example), self._note(name, example))
            for name in self.best_first(example)
        ]
        marked = None if self.question.at is None else int(self.question.at[example])
        found = {"words": plotting.token_rows(names, rows, title=title, marked=marked)}
        try:
            maps = {n: w for n, w in self.attention(example).items() if w.shape[1] == w.shape[2]}
        except NotImplementedError:
            return found
        strip = {f"layer {n}": w.mean(axis=0) for n, w in enumerate(maps.values())}
        strip["rollout"] = np.asarray(rollout([jnp.asarray(w)[None] for w in maps.values()])[0])
        for figure, lines, by in (
            ("heads", self._heads(maps), "attention_mean"),
            ("layers", {"mean of heads": strip}, "rollout"),
        ):
            note = self._judged(by, example)
            found[figure] = plotting.map_grid(lines, names, names, title=title, note=note)
        return found

    def page(
        self, example: int = 0, *, labels: Sequence[str] | None = None, title: str = ""
    ) -> Page:
        """The text, its attention and every explanation."""
        names = [plotting.visible(label) for label in self._labels(example, labels)]
        scores = {
            name: (self.shown(name, example), self._note(name, example))
            for name in self.best_first(example)
        }
        return text_page(self.attention(example), names, title=title, scores=scores)

    def shown(self, name: str, example: int = 0) -> Float[np.ndarray, " T"]:
        """The scores of what can be taken away, 0 elsewhere."""
        removable = np.asarray(self.question.units[example]) >= 0
        return np.where(removable, self.maps[name][example], 0)

    def _labels(self, example: int, labels: Sequence[str] | None) -> list[str]:
        ids = np.asarray(self.question.inputs[0][example])
        return [str(i) for i in ids] if labels is None else list(labels)


class TranslationsExplained(Explained):
    """Explanations of translations: target tokens by source tokens.

    Figures and pages take ``source`` and ``target``, a string a token (None: their ids; a target's
    first is the one behind BOS), and a ``title``.
    """

    def figures(
        self,
        example: int = 0,
        *,
        source: Sequence[str] | None = None,
        target: Sequence[str] | None = None,
        title: str = "",
    ) -> dict[str, plotting.Figure]:
        """A matrix of every explanation, each row as shares of what speaks for the token; every
        head of cross-attention, and of the encoder.
        """
        left, right = self._sides(example, source, target)
        matrices = {
            f"{name.replace('_', ' ')}\n{self._note(name, example)}": self.shares(name, example)
            for name in self.best_first(example)
        }
        panels = list(matrices.items())
        lines: dict[str, Any] = {" " * n: dict(panels[n : n + 4]) for n in range(0, len(panels), 4)}
        note = "each row as shares of what speaks for its word; areas are means over words"
        found = {"alignment": plotting.map_grid(lines, right, left, title=title, note=note)}
        maps = self.maps_by_token(example)
        cross = {name: w for name, w in maps.items() if not name.endswith("/self")}
        encoder = {name: w for name, w in maps.items() if name.startswith("encoder/")}
        note = self._judged("attention_mean", example)
        for figure, heads, rows, what in (
            ("heads", cross, right, "cross-attention"),
            ("encoder", encoder, left, "the encoder"),
        ):
            if heads:
                headed = f"{title}: {what}".lstrip(": ")
                lines = self._heads(heads)
                found[figure] = plotting.map_grid(lines, rows, left, title=headed, note=note)
        return found

    def page(
        self,
        example: int = 0,
        *,
        source: Sequence[str] | None = None,
        target: Sequence[str] | None = None,
        title: str = "",
        reverse: Mapping[str, Any] | None = None,
        links: Any = None,
    ) -> Page:
        """The attention of both sides; ``reverse`` and ``links`` are ``translation_page``'s."""
        left, right = self._sides(example, source, target)
        maps = self.maps_by_token(example)
        return translation_page(maps, left, right, reverse=reverse, title=title, links=links)

    def shares(self, name: str, example: int = 0) -> Float[np.ndarray, "T S"]:
        """The scores that speak for each target token, as shares of their sum."""
        S, T = self._lengths(example)
        positive = np.maximum(self.maps[name][example][:T, :S], 0)
        total = positive.sum(axis=1, keepdims=True)
        return positive / np.where(total > 0, total, 1)

    def maps_by_token(self, example: int = 0) -> dict[str, Float[np.ndarray, "N T S"]]:
        """All maps, whose rows of a target are the tokens that are predicted.

        So that columns of the decoder's self-attention are the same tokens, they are moved by one:
        the first, which is the beginning of the sentence, is left out, and the last is 0.
        """
        S, T = self._lengths(example)
        maps = {}
        for name, weights in self.attention(example).items():
            if name.startswith("encoder/"):
                maps[name] = weights[:, :S, :S]
            elif name.endswith("/self"):
                maps[name] = np.pad(weights[:, :T, 1:T], ((0, 0), (0, 0), (0, 1)))
            else:
                maps[name] = weights[:, :T, :S]
        return maps

    def _lengths(self, example: int) -> tuple[int, int]:
        source = int((np.asarray(self.question.inputs[0][example]) != 0).sum())
        return source, int((self.target[example] != 0).sum())

    def _sides(self, example: int, source: Any, target: Any) -> tuple[list[str], list[str]]:
        S, T = self._lengths(example)
        ids = np.asarray(self.question.inputs[0][example])[:S], self.target[example][:T]
        left, right = (
            [str(i) for i in own] if given is None else list(given)
            for own, given in zip(ids, (source, target))
        )
        return left, right
