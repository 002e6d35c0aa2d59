# Over 400 lines: one call and its results for pictures, texts and translations.
"""Explanation of a model in one call: scores by all methods, faithfulness, figures and a page."""

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
from attnzoo.explain.tokens import pad_id, token_question, token_tables, translation_question
from attnzoo.explain.vit import image_question
from attnzoo.models.vit import ViT

STEPS = 18
"""Largest number of steps of a curve; a ViT-B has 196 patches."""
ROWS = 128
"""Number of examples with removed units in one batch."""


class Faithfulness(NamedTuple):
    """Areas under the curves of an explanation for each example, with those of random orders.

    The curve is the answer's probability while patches or tokens are removed, the most important
    first (deletion: a small area is better), or inserted (insertion: a large area is better). For a
    translation the areas are ``B T``, one for each target token; NaN at padding.
    """

    deletion: Float[np.ndarray, "B ..."]
    insertion: Float[np.ndarray, "B ..."]
    random_deletion: Float[np.ndarray, "B ..."]
    random_insertion: Float[np.ndarray, "B ..."]

    def of(self, example: int) -> "Faithfulness":
        """Return the numbers of one example, as means over its target tokens if it has several."""
        return Faithfulness(*(np.nanmean(areas[example]) for areas in self))

    def __str__(self) -> str:
        mine, random = np.nanmean(self.deletion), np.nanmean(self.random_deletion)
        return f"deletion {mine:.2f}, random {random:.2f}"


def explain(
    model: nnx.Module,
    inputs: Any,
    *,
    methods: str | Sequence[str | Explanation] | None = None,
    target: Target | None = None,
    at: Any = None,
    units: Any = None,
    fill: str | float | int | None = None,
    faithfulness: bool = True,
    key: Key[Array, ""] | None = None,
    num_samples: int = 20,
    layer: int | None = None,
    head: int | None = None,
    **keywords: Any,
) -> "Explained":
    """Explain a model's answers, with every explanation that applies.

    Args:
      model: a ``ViT``, or a model of text: an encoder, a decoder or a translator.
      inputs: images ``B h w C``, tokens ``B T``, or (source ``B S``, target ``B T + 1`` from BOS to
        EOS), padded with the model's ``pad_id``; every target token is explained.
      methods: names in ``EXPLANATIONS``, your own as "package.module:Name", or functions from a
        ``Question`` to scores; None: all that are not slow.
      target: class or token to explain, one for all or one per example, or a function from the
        output to one number per example; None: the model's own answer.
      at: position of the explained output, for a model with an output at every token; None: in a
        causal model the last that is not padding.
      units: ``B T``, the unit (such as a word) that each token belongs to, -1 where it is never
        removed; None: each token is a unit.
      fill: replacement of what is removed: "mean" (default), "blur" or a number for patches; "zero"
        (default), "mean" or a token id for tokens.
      faithfulness: False skips the areas, which take most of the time.
      key: random key of all noise and orders; ``jax.random.key(0)`` if None.
      num_samples: number of random orders, and of steps in methods that average.
      layer, head: for texts, the source of "attention_mean"; by default the last layer (in a
        translator the alignment layer) and the mean of the heads.
      keywords: further arguments of the model, such as ``valid``.

    Returns:
      The scores as ``maps``; explanations that do not apply are in ``skipped`` with the reason.

    Raises:
      ValueError: unknown method, class, token, layer or head.
      NotImplementedError: a model of another kind.

    Example:
      result = explain(model, images, methods=("rollout", "cdam"), target=3)
      result.maps["cdam"], result.faithfulness["cdam"].deletion, result.figure()
    """
    arrays = tuple(jnp.asarray(x) for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
    kind, ask = _kind(model)
    _check_inputs(model, kind, arrays)
    B = arrays[0].shape[0]
    given = {n: jnp.asarray(v) for n, v in keywords.items() if v is not None}
    function = target if callable(target) else None
    classes = None if target is None or callable(target) else jnp.asarray(target, jnp.int32)
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
        num_samples=num_samples,
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
    wanted = EXPLANATIONS if methods is None else [methods] if isinstance(methods, str) else methods
    chosen = [
        pair for pair in named(list(wanted)) if methods is not None or pair[0] not in ON_REQUEST
    ]
    names = [name for name, _ in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"methods has {twice[0]} twice; wanted another name, or each once")
    found = _found(question, tuple(chosen))
    maps = {n: np.asarray(found.scores[n]) for n, _ in chosen if n in found.scores}
    bad = {n: int(np.sum(~np.isfinite(x))) for n, x in maps.items()}
    wrong = {n: f"{bad[n]} of {x.size} scores are not finite" for n, x in maps.items() if bad[n]}
    maps = {n: x for n, x in maps.items() if not bad[n]}
    return kind(
        question,
        maps,
        dict(found.skipped) | wrong | ({} if methods is not None else ON_REQUEST),
        _faithfulness(question, maps) if faithfulness and maps else {},
        probabilities,
    )


def _check_inputs(model: nnx.Module, kind: "type[Explained]", arrays: tuple[Any, ...]) -> None:
    """Refuse inputs of another number, dtype or shape than the model reads."""
    name, shapes = type(model).__name__, ", ".join(str(x.shape) for x in arrays)
    if kind is TranslationsExplained and len(arrays) != 2:
        raise ValueError(f"inputs are {len(arrays)} array; {name} wants a pair (source, target)")
    if kind is not TranslationsExplained and len(arrays) != 1:
        raise ValueError(f"inputs are {len(arrays)} arrays; {name} wants one")
    images = kind is ImagesExplained
    if any(x.ndim != (4 if images else 2) or x.size == 0 for x in arrays):
        wanted = "images B h w C" if images else "tokens B T"
        raise ValueError(f"inputs of shape {shapes}; wanted {wanted}, at least one of each")
    if not images and any(not jnp.issubdtype(x.dtype, jnp.integer) for x in arrays):
        raise ValueError(f"inputs of dtype {arrays[0].dtype}; wanted ids of tokens, integers")


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
    """Raise a ValueError for an unknown layer or head."""
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
    """Return the areas of every explanation, with many orders of many examples in one batch."""
    cases, shape = question.cases(), next(iter(maps.values())).shape
    C, U = cases.units.shape[0], question.count
    each = C // shape[0]
    orders = max(1, question.num_samples // each)
    # The random order of an example must not depend on the lengths of others in the batch.
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
        both[..., np.asarray(question.classes) == pad_id(question.model)] = np.nan
    mean = both[:, len(maps) :].mean(axis=1)
    return {name: Faithfulness(*both[:, i], *mean) for i, name in enumerate(maps)}


@dataclasses.dataclass(frozen=True)
class Explained:
    """Explanations of a batch of answers.

    Attributes:
      question: the ``Question``, with the model.
      maps: scores by explanation, higher is more important: ``B P`` for patches or tokens, ``B T
        S`` for a translation's target tokens by its source tokens; 0 at padding.
      skipped: reason why an explanation does not apply, by name.
      faithfulness: areas by explanation.
      probabilities: those of all classes or tokens, ``B V`` or ``B T V``; None if the target is a
        function.
    """

    question: Question = dataclasses.field(repr=False)
    maps: dict[str, Float[np.ndarray, "B ..."]] = dataclasses.field(repr=False)
    skipped: dict[str, str]
    faithfulness: dict[str, Faithfulness] = dataclasses.field(repr=False)
    probabilities: Float[np.ndarray, "B ..."] | None = dataclasses.field(repr=False)

    figures: ClassVar[Any]
    """All figures of an example by name; subclasses document the drawing arguments."""
    page: ClassVar[Any]
    """HTML page to explore an example; takes the same arguments as ``figures``."""

    @property
    def target(self) -> Int[np.ndarray, "B ..."]:
        """Explained class or token of each example."""
        return np.asarray(self.question.classes)

    def best_first(self, example: int = 0) -> list[str]:
        """Return the explanations of an example, sorted by deletion area, smallest first."""
        if not self.faithfulness:
            return list(self.maps)
        return sorted(self.maps, key=lambda name: self.faithfulness[name].of(example).deletion)

    def attention(self, example: int = 0) -> dict[str, Float[np.ndarray, "N T S"]]:
        """Return the weights of every attention in the model for one example, by name."""
        one = self.question.of_rows(np.asarray([example]))
        _, maps = capture_attention(one.model, *one.inputs, **one.keywords)
        return {name: np.asarray(weights[0], np.float32) for name, weights in maps.items()}

    def figure(self, example: int = 0, **drawing: Any) -> plotting.Figure:
        """Return the first of :meth:`figures`: the scores of every explanation."""
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

    Figures and pages take an ``image``, ``H W C`` before normalisation (uint8 or 0 to 1; None: the
    input, rescaled to this range), a ``title``, and a patch to be ``marked``, (row, column).
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
        """Draw every explanation over the image, and the attention by layer and head ("heads")."""
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
        """Return a page with the image, its attention and every explanation."""
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
        """Return the image with values from 0 to 1."""
        if image is None:
            pixels = np.asarray(self.question.inputs[0][example], np.float64)
            reach = np.ptp(pixels)
            return (pixels - pixels.min()) / (reach if reach > 0 else 1)
        pixels = np.asarray(image)
        return pixels / 255 if pixels.dtype == np.uint8 else pixels.astype(np.float64)


class TextsExplained(Explained):
    """Explanations of texts by their tokens.

    Figures and pages take ``labels``, one string per token (None: its id), and a ``title``. Only
    tokens that can be removed are coloured, because a class token often has most of the attention.
    """

    def figures(
        self, example: int = 0, *, labels: Sequence[str] | None = None, title: str = ""
    ) -> dict[str, plotting.Figure]:
        """Draw the text coloured by every explanation, all heads, and all layers with rollout."""
        names = self._labels(example, labels)
        rows = [
            plotting.TokenRow(name, self.shown(name, example), self._note(name, example))
            for name in self.best_first(example)
        ]
        marked = None if self.question.at is None else int(self.question.at[example])
        found = {"words": plotting.token_rows(names, rows, title=title, marked=marked)}
        try:
            every = self.attention(example)
        except NotImplementedError:
            return found
        pooled = {n: w for n, w in every.items() if w.shape[1] == 1 < w.shape[2]}
        if pooled:
            lines = {n: {f"head {h}": one for h, one in enumerate(w)} for n, w in pooled.items()}
            found["heads"] = plotting.map_grid(lines, ["text"], names, title=title)
            return found
        maps = {n: w for n, w in every.items() if w.shape[1] == w.shape[2]}
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
        """Return a page with the text, its attention and every explanation."""
        names = [plotting.visible(label) for label in self._labels(example, labels)]
        scores = {
            name: (self.shown(name, example), self._note(name, example))
            for name in self.best_first(example)
        }
        return text_page(self.attention(example), names, title=title, scores=scores)

    def shown(self, name: str, example: int = 0) -> Float[np.ndarray, " T"]:
        """Return the scores of tokens that can be removed, 0 for others."""
        removable = np.asarray(self.question.units[example]) >= 0
        return np.where(removable, self.maps[name][example], 0)

    def _labels(self, example: int, labels: Sequence[str] | None) -> list[str]:
        ids = np.asarray(self.question.inputs[0][example])
        return [str(i) for i in ids] if labels is None else list(labels)


class TranslationsExplained(Explained):
    """Explanations of translations: target tokens by source tokens.

    Figures and pages take ``source`` and ``target``, one string per token (None: its id; the target
    starts after BOS), and a ``title``.
    """

    def figures(
        self,
        example: int = 0,
        *,
        source: Sequence[str] | None = None,
        target: Sequence[str] | None = None,
        title: str = "",
    ) -> dict[str, plotting.Figure]:
        """Draw a matrix of every explanation, and the heads of cross-attention and encoder.

        Rows of an explanation are shares of the scores that support the token.
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
        """Return a page of the attention (see ``translation_page`` for the arguments)."""
        left, right = self._sides(example, source, target)
        maps = self.maps_by_token(example)
        return translation_page(maps, left, right, reverse=reverse, title=title, links=links)

    def shares(self, name: str, example: int = 0) -> Float[np.ndarray, "T S"]:
        """Return the positive scores for each target token, as shares of their sum."""
        S, T = self._lengths(example)
        positive = np.maximum(self.maps[name][example][:T, :S], 0)
        total = positive.sum(axis=1, keepdims=True)
        return positive / np.where(total > 0, total, 1)

    def maps_by_token(self, example: int = 0) -> dict[str, Float[np.ndarray, "N T S"]]:
        """Return all maps, with rows of the target named by the predicted tokens.

        Columns of the decoder's self-attention are shifted by one to match: the first, BOS, is left
        out, and the last is 0.
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
        pad = pad_id(self.question.model)
        source = int((np.asarray(self.question.inputs[0][example]) != pad).sum())
        return source, int((self.target[example] != pad).sum())

    def _sides(self, example: int, source: Any, target: Any) -> tuple[list[str], list[str]]:
        S, T = self._lengths(example)
        ids = np.asarray(self.question.inputs[0][example])[:S], self.target[example][:T]
        left, right = (
            [str(i) for i in own] if given is None else list(given)
            for own, given in zip(ids, (source, target))
        )
        return left, right
