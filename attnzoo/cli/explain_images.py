"""What an image model answers by, by every method, and whether to believe it.

For each image asked a figure with all methods' overlays, each with its faithfulness beside that of
random scores, its heads and a page; over many images of the data a table of faithfulness and, of
planted data, of how often a method's first patch is the planted one.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from attnzoo.errors import UserError

BATCH = 50
STEPS = 18
"""Steps of a curve, at most: a ViT-B has 196 patches."""


class Shown(NamedTuple):
    """An image to draw.

    Attributes:
      name: of its files.
      title: what it is.
      target: the class that is explained; None: the model's own.
      mark: the planted patch, if there is one.
    """

    name: str
    title: str
    pixels: Any
    target: int | None
    mark: int | None = None


def explain(trained: Any, arguments: argparse.Namespace) -> int:
    """Figures and pages of the images asked, and the table over images of the data."""
    from attnzoo.models.vit import ViT

    for option in ("layer", "head", "at", "reverse"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} is not for images, whose page shows every layer and head")
    arguments.fill = arguments.fill or "mean"
    if arguments.fill not in ("mean", "blur"):
        raise UserError(f"--fill {arguments.fill}: wanted mean or blur for patches")
    if not isinstance(trained.model, ViT):
        raise UserError(
            f"{arguments.run}: a {type(trained.model).__name__}; wanted a run with model.kind=vit"
        )
    numbers = arguments.images
    if numbers is None:
        numbers = [] if arguments.inputs else [0, 1, 2]
    target = None
    if arguments.target is not None:
        from attnzoo.cli.explain_question import class_number

        target = class_number(arguments.target, trained.task.names)
    measure = _measure(trained.model, arguments)
    files = [_file(trained, Path(name), target) for name in arguments.inputs]
    arguments.out.mkdir(parents=True, exist_ok=True)
    if numbers or not files:
        _of_data(trained, measure, numbers, target, arguments)
    for shown in files:
        _of_file(trained, measure, shown, arguments)
    print(f"written: {arguments.out}")
    return 0


def _file(trained: Any, path: Path, target: int | None) -> Shown:
    """An image file as the run's images are: grey or coloured, scaled and cut to their size."""
    import numpy as np
    from PIL import Image, ImageOps

    config = trained.model.config
    size, channels = config.image_size, config.channels
    if not path.is_file():
        raise UserError(f"{path}: no such image file; wanted a path, or --images N of the data")
    try:
        with Image.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
    except OSError as error:
        raise UserError(f"{path}: not an image: {error}") from None
    fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(fitted).reshape(size, size, channels)
    return Shown(path.stem, path.name, pixels, target)


def _normalised(trained: Any, pixels: Any) -> Any:
    import jax.numpy as jnp

    from attnzoo.data.augment import normalise, to_float

    mean, std = jnp.asarray(trained.task.mean), jnp.asarray(trained.task.std)
    return normalise(to_float(jnp.asarray(pixels)), mean, std)


def _of_file(trained: Any, measure: Any, shown: Shown, arguments: argparse.Namespace) -> None:
    import jax.numpy as jnp
    import numpy as np

    images = _normalised(trained, shown.pixels[None])
    logits = np.asarray(trained.model(images), np.float32)[0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    own = int(probabilities.argmax())
    target = own if shown.target is None else shown.target
    names = trained.task.names
    found = measure(images, jnp.asarray([target], jnp.int32), 0)
    values = {name: {k: v[0] for k, v in each.items()} for name, each in found.items()}
    title = f"{shown.title}, says {names[own]} ({probabilities[own]:.2f})"
    if target != own:
        title += f", explained for class {names[target]} ({probabilities[target]:.2f})"
    print(title)
    for name, each in sorted(values.items(), key=lambda item: item[1]["deletion"]):
        print(f"  {name:<21} {each['deletion']:.3f} {each['insertion']:.3f}")
    _show(trained, shown._replace(title=title), values, arguments)


def _of_data(
    trained: Any,
    measure: Any,
    numbers: list[int],
    target: int | None,
    arguments: argparse.Namespace,
) -> None:
    import jax.numpy as jnp
    import numpy as np

    from attnzoo.data.images import load_images
    from attnzoo.explain.agreement import bootstrap

    task = trained.task
    data = load_images(trained.config.data)
    part = "test" if len(data.test) else "validation"
    images = getattr(data, part)
    wrong = [n for n in numbers if not 0 <= n < len(images)]
    if wrong:
        raise UserError(f"--images {wrong[0]}: {part} has the images 0 to {len(images) - 1}")
    classes = images.labels
    if target is not None:
        classes = np.full_like(classes, target)
    planted = _planted(trained.config.data, part)
    rows = sorted({*range(min(arguments.count, len(images))), *numbers})
    found: dict[str, list[Any]] = {}
    for start in range(0, len(rows), BATCH):
        chunk = np.asarray(rows[start : start + BATCH])
        # A short last chunk is filled up, so that all is compiled once.
        filled = np.resize(chunk, min(BATCH, len(rows)))
        pixels = _normalised(trained, images.images[filled])
        batch = measure(pixels, jnp.asarray(classes[filled]), start)
        for name, values in batch.items():
            found.setdefault(name, []).append({k: v[: len(chunk)] for k, v in values.items()})
    table = {
        name: {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
        for name, batches in found.items()
    }
    at = {row: i for i, row in enumerate(rows)}
    counted = [at[n] for n in range(min(arguments.count, len(images)))]
    summary = {}
    for name, values in table.items():
        line = {k: bootstrap(values[k][counted]) for k in ("deletion", "insertion")}
        if planted is not None:
            hits = values["scores"][counted].argmax(axis=1) == planted[: len(counted)]
            line = {"hit": bootstrap(hits), **line}
        summary[name] = line
    _print(summary, len(counted), part, arguments)
    written = json.dumps(summary, indent=2) + "\n"
    (arguments.out / "faithfulness.json").write_text(written, encoding="utf-8")
    for n in numbers:
        values = {name: {k: v[at[n]] for k, v in each.items()} for name, each in table.items()}
        title = f"{part} image {n}, class {task.names[images.labels[n]]}"
        if target is not None:
            title += f", explained for class {task.names[target]}"
        mark = None if planted is None else int(planted[n])
        shown = Shown(f"{part}-{n}", title, images.images[n], int(classes[n]), mark)
        _show(trained, shown, values, arguments)


def _show(trained: Any, shown: Shown, values: dict[str, Any], arguments: Any) -> None:
    """The overlays, the heads and the page of one image."""
    import numpy as np

    from attnzoo import plotting
    from attnzoo.explain.capture import capture_attention
    from attnzoo.explain.page import image_page

    config = trained.model.config
    across = shown.pixels.shape[1] // config.patch
    grid = shown.pixels.shape[0] // config.patch, across
    random = values["random"]
    panels = [
        plotting.Overlay(
            name,
            each["scores"].reshape(grid),
            f"del {each['deletion']:.2f} ({random['deletion']:.2f} random)\n"
            f"ins {each['insertion']:.2f} ({random['insertion']:.2f})",
        )
        for name, each in values.items()
    ]
    marked = None if shown.mark is None else divmod(shown.mark, across)
    light = shown.pixels.astype(np.float64) / 255
    overlays = plotting.overlays(light, panels, title=shown.title, marked=marked)
    _, found = capture_attention(trained.model, _normalised(trained, shown.pixels[None]))
    maps = {name: np.asarray(weights[0], np.float32) for name, weights in found.items()}
    heads = plotting.patch_grid(
        light,
        {
            f"layer {n}": {f"head {h}": one for h, one in enumerate(_read(weights, config, grid))}
            for n, weights in enumerate(maps.values())
        },
        title=f"{shown.title}: what the class is read from, by layer and head",
        note=f"deletion area by attention mean: {values['attention_mean']['deletion']:.2f}, by "
        f"random order: {random['deletion']:.2f}; less is better",
    )
    for name, figure in (("", overlays), ("-heads", heads)):
        for suffix in (".png", ".svg"):
            plotting.save(figure, arguments.out / f"{shown.name}{name}{suffix}")
    explanations = {
        name: (
            each["scores"],
            f"deletion {each['deletion']:.2f}, random {random['deletion']:.2f}",
        )
        for name, each in values.items()
        if name != "random"
    }
    path = arguments.html or arguments.out / f"{shown.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        page = image_page(shown.pixels, maps, grid, explanations=explanations, title=shown.title)
    except ValueError as error:  # larger than a page may be
        raise UserError(f"{shown.title}: {error}") from None
    page.save(path)


def _read(weights: Any, config: Any, grid: tuple[int, int]) -> Any:
    """``N rows columns``: the class token's row, or the mean of the patches' rows."""
    has_class = config.pooling in ("class", "class_mean")
    row = weights[:, 0] if has_class else weights[:, config.prefix :].mean(axis=1)
    return row[:, config.prefix :].reshape(-1, *grid)


def _measure(model: Any, arguments: argparse.Namespace) -> Callable[..., dict[str, Any]]:
    """A function that gives of each method the scores, and the areas under its curves."""
    import jax
    import numpy as np
    from flax import nnx

    from attnzoo.explain import faithfulness
    from attnzoo.explain.vit import explain_vit, flow_of

    graph, state = nnx.split(model)
    patch, fill = model.config.patch, arguments.fill

    @jax.jit
    def compiled(state: Any, images: Any, classes: Any, key: Any, given: Any) -> dict[str, Any]:
        model: Any = nnx.merge(graph, state)
        key, noise = jax.random.split(key)
        scores = explain_vit(model, images, classes, key, draws=arguments.draws) | given
        score = faithfulness.images_score(model, images, classes, patch, fill=fill)
        shape = next(iter(scores.values())).shape
        scores["leave_one_out"] = faithfulness.leave_one_out(score, shape)
        scores["random"] = faithfulness.random_importance(noise, shape)

        steps = min(STEPS, shape[1])

        def areas(importance: Any) -> tuple[Any, Any]:
            deleted = faithfulness.deletion(score, importance, steps=steps)
            return deleted.area, faithfulness.insertion(score, importance, steps=steps).area

        deletion, insertion = jax.lax.map(areas, jax.numpy.stack(list(scores.values())))
        return {
            name: {"scores": one, "deletion": deletion[i], "insertion": insertion[i]}
            for i, (name, one) in enumerate(scores.items())
        }

    def measure(images: Any, classes: Any, start: int) -> dict[str, Any]:
        given = {}
        if arguments.flow:
            given["flow"] = jax.numpy.asarray(flow_of(model, images), jax.numpy.float32)
        key = jax.random.fold_in(jax.random.key(arguments.seed), start)
        return jax.tree.map(np.asarray, compiled(state, images, classes, key, given))

    return measure


def _planted(config: Any, part: str) -> Any:
    """The planted patch of each image, where the data has one."""
    if config.source.kind != "planted" or not getattr(config.source, part):
        return None
    from attnzoo.data.planted import planted_patches

    return planted_patches(config.source, part)


def _print(summary: dict[str, Any], count: int, part: str, arguments: argparse.Namespace) -> None:
    print(f"{count} images of {part}; removed patches are the image's {arguments.fill}")
    print("areas of probability: deletion, less is better, and insertion, more is better;")
    print("in brackets 95 % of bootstrapped means")
    first = next(iter(summary.values()))
    print(f"  {'':<21}" + "".join(f"{name:<24}" for name in first))
    best = sorted(summary.items(), key=lambda item: item[1]["deletion"].mean)
    for name, line in best:
        print(f"  {name:<21}" + "".join(f"{interval!s:<24}" for interval in line.values()))
