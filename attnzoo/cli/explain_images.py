"""`explain` for images: files, images of the data, and a table of means over many of them.

For planted data the table also has the share of images in which a method's top patch is the planted
one.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from attnzoo.cli.common import Failures, new_name
from attnzoo.cli.explain import ask, draw, print_skipped
from attnzoo.errors import UserError
from attnzoo.files import write_text

BATCH = 50


class ImageFile(NamedTuple):
    """Image file to explain: name of the output, title, and explained class."""

    name: str
    title: str
    pixels: Any
    target: int | None


def explain(trained: Any, arguments: argparse.Namespace) -> int:
    """Write figures and pages of the requested images, and the table over images of the data."""
    from attnzoo.models.vit import ViT

    for option in ("layer", "head", "at", "reverse"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} is not for images, whose page shows every layer and head")
    arguments.fill = arguments.fill or "mean"
    if arguments.fill not in ("mean", "blur"):
        raise UserError(f"--fill {arguments.fill}: wanted mean or blur for patches")
    if not isinstance(trained.model, ViT):
        raise UserError(
            f"{arguments.run}: a {type(trained.model).__name__}; wanted a ViT, DeiT or DINOv2"
        )
    numbers = arguments.images
    if numbers is None:
        numbers = [] if arguments.inputs else [0, 1, 2]
    if trained.step is None and numbers:
        raise UserError(f"{arguments.run}: a folder has no images of its own; wanted image files")
    target = None
    if arguments.target is not None:
        from attnzoo.cli.explain_question import class_number

        target = class_number(arguments.target, trained.task.names)
    taken: set[str] = set()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if numbers or not arguments.inputs:
        _of_data(trained, numbers, target, arguments)
    failures = Failures(len(arguments.inputs))
    for name in arguments.inputs:
        with failures.of(name):
            _of_file(trained, _file(trained, Path(name), target, taken), arguments)
    print(f"written: {arguments.out}")
    return failures.status()


def _file(trained: Any, path: Path, target: int | None, taken: set[str]) -> ImageFile:
    """Read an image file and convert it to the model's channels and size."""
    from attnzoo.data.pictures import open_picture

    if not path.is_file():
        raise UserError(f"{path}: no such image file; wanted a path, or --images N of the data")
    image = open_picture(path.read_bytes(), str(path), trained.model.config.channels)
    name = new_name(path.stem, taken)
    title = path.name if name == path.stem else f"{path.parent.name}/{path.name}"
    return ImageFile(name, title, trained.picture(image), target)


def _normalised(trained: Any, pixels: Any) -> Any:
    import jax.numpy as jnp

    from attnzoo.data.augment import normalise, to_float

    mean, std = jnp.asarray(trained.task.mean), jnp.asarray(trained.task.std)
    return normalise(to_float(jnp.asarray(pixels)), mean, std)


def _of_file(trained: Any, shown: ImageFile, arguments: argparse.Namespace) -> None:
    names, target = trained.task.names, shown.target
    pixels = _normalised(trained, shown.pixels[None])
    result = ask(trained.model, pixels, arguments, target=target, fill=arguments.fill)
    said, target = result.probabilities[0], int(result.target[0])
    own = int(said.argmax())
    title = f"{shown.title}, says {names[own]} ({said[own]:.2f})"
    if target != own:
        title += f", explained for class {names[target]} ({said[target]:.2f})"
    print(title)
    print(f"{'areas of probability':<23} deletion, less is better; insertion, more is better")
    found = [(name, areas.of(0)) for name, areas in result.faithfulness.items()]
    lines = [(areas.deletion, name, areas.insertion) for name, areas in found]
    lines += [(areas.random_deletion, "random", areas.random_insertion) for _, areas in found[:1]]
    for deletion, name, insertion in sorted(lines):
        print(f"  {name:<21} {deletion:.3f} {insertion:.3f}")
    print_skipped(result)
    draw(result, 0, shown.name, arguments, image=shown.pixels, title=title)


def _of_data(
    trained: Any, numbers: list[int], target: int | None, arguments: argparse.Namespace
) -> None:
    import numpy as np

    task = trained.task
    part, data = task.read_part("test", "validation")
    images = getattr(data, part)
    wrong = [n for n in numbers if not 0 <= n < len(images)]
    if wrong:
        raise UserError(f"--images {wrong[0]}: {part} has the images 0 to {len(images) - 1}")
    classes = images.labels if target is None else np.full_like(images.labels, target)
    planted = _planted(trained.config.data, part)
    count = min(arguments.count, len(images))
    rows = sorted({*range(count), *numbers})
    results = []
    for start in range(0, len(rows), BATCH):
        # A short last batch is padded, so that one compiled program serves all.
        batch = np.resize(np.asarray(rows[start : start + BATCH]), min(BATCH, len(rows)))
        pixels = _normalised(trained, images.images[batch])
        results.append(
            ask(trained.model, pixels, arguments, target=classes[batch], fill=arguments.fill)
        )
    at = {row: divmod(i, BATCH) for i, row in enumerate(rows)}
    summary = _summary(results, [at[n] for n in range(count)], planted)
    _print(summary, count, part, arguments)
    print_skipped(results[0])
    written = json.dumps(summary, indent=2) + "\n"
    write_text(arguments.out / "faithfulness.json", written)
    for n in numbers:
        batch, i = at[n]
        title = f"{part} image {n}, class {task.names[images.labels[n]]}"
        if target is not None:
            title += f", explained for class {task.names[target]}"
        across = trained.model.config.image_size // trained.model.config.patch
        marked = None if planted is None else divmod(int(planted[n]), across)
        drawing = {"marked": marked, "marking": "the planted patch"}
        name, pixels = f"{part}-{n}", images.images[n]
        draw(results[batch], i, name, arguments, image=pixels, title=title, **drawing)


def _summary(results: list[Any], places: list[tuple[int, int]], planted: Any) -> dict[str, Any]:
    """Return means of areas and hits by method, and of random orders."""
    import numpy as np

    from attnzoo.explain.agreement import bootstrap

    def line(maps: Any, areas: Any) -> dict[str, Any]:
        found = {key: bootstrap(area) for key, area in zip(("deletion", "insertion"), areas)}
        if planted is None:
            return found
        best = np.asarray([m.argmax() == planted[n] for n, m in enumerate(maps)])
        return {"hit": bootstrap(best), **found}

    summary = {}
    areas: Any = []
    for name in results[0].maps:
        maps = np.stack([results[batch].maps[name][i] for batch, i in places])
        each = [results[batch].faithfulness[name] for batch, _ in places]
        areas = np.asarray([[area[i] for area in one] for one, (_, i) in zip(each, places)]).T
        summary[name] = line(maps, areas[:2])
    random = np.random.default_rng(0).random((len(places), results[0].question.count))
    return {**summary, "random": line(random, areas[2:])}


def _planted(config: Any, part: str) -> Any:
    """Return the planted patch of each image, if the data has one."""
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
