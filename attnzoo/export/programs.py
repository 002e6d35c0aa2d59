"""Exported functions of each task's model: named arrays in and out, with shapes and limits."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from attnzoo.data.augment import normalise, to_float
from attnzoo.decoding.generate import generate
from attnzoo.decoding.hypotheses import TokenIds
from attnzoo.decoding.rules import DEFAULT_RULES, Rules
from attnzoo.errors import UserError
from attnzoo.models.detr import probabilities
from attnzoo.ops.boxes import to_corners
from attnzoo.ops.spectrogram import hop_size
from attnzoo.tasks.captioning import CaptioningTask
from attnzoo.tasks.contrastive import ContrastiveTask
from attnzoo.tasks.detection import DetectionTask
from attnzoo.tasks.image_classification import ImageClassificationTask
from attnzoo.tasks.language_modeling import CausalLMTask, MaskedLMTask, SpanCorruptionTask
from attnzoo.tasks.question_answering import QuestionAnsweringTask
from attnzoo.tasks.recommendation import RecommendationTask, next_scores
from attnzoo.tasks.speech import SpeechTask
from attnzoo.tasks.stories import StoriesTask
from attnzoo.tasks.task import Task
from attnzoo.tasks.text_classification import ClassificationTask
from attnzoo.tasks.text_generator import ids_of
from attnzoo.tasks.translation_programs import searched
from attnzoo.tasks.translation_task import TranslationTask
from attnzoo.training.opened import Opened

Outputs = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Program:
    """One exported function.

    Attributes:
      run: ``run(model, **inputs)`` returns arrays by name.
      inputs: dtype and shape by name; "B, T" has a letter for every size that is not fixed.
      limits: constraints on those sizes, as ``jax.export.symbolic_shape`` reads them: "T <= 64".
      sizes: size of each letter if the function cannot be traced with a symbolic size.
    """

    meaning: str
    run: Callable[..., Outputs]
    inputs: Mapping[str, tuple[str, str]]
    limits: tuple[str, ...]
    sizes: Mapping[str, int]


def programs(run: Opened, max_new_tokens: int | None = None) -> dict[str, Program]:
    """Return the programs of a run or a folder, by name.

    ``max_new_tokens`` limits the programs that generate. If None: the config's decoding length, at
    most the positions of the model; or half the positions of a language model.

    Raises:
      UserError: ``max_new_tokens`` leaves no room for a prompt, or there is no output layer.
    """
    task = run.task
    match task:
        case TranslationTask():
            room = max_new_tokens or _decoding_length(task, task.slots)
            return _translator(ids_of(task.both[1]), task.slots, room, run.rules)
        case SpeechTask():
            room = max_new_tokens or task.config.decoding.max_length
            return _transcriber(task, room, run.rules)
        case SpanCorruptionTask():
            begin = task.tokenizer.specials.get("bos", task.tokenizer.pad_id)
            ids = TokenIds(task.tokenizer.pad_id, begin, task.tokenizer.special("eos"))
            return _translator(ids, _positions(task), max_new_tokens or task.settings.context)
        case CausalLMTask():
            return _language_model(task, run.ends, max_new_tokens)
        case MaskedLMTask():
            return {"logits": _encoder(task, "of every token, B T V, also of masked ones")}
        case ClassificationTask():
            what = (
                "of the classes, B C" if task.head == "sequence" else "of each token's tag, B T C"
            )
            return {"logits": _encoder(task, f"{what}; the names are in export.json")}
        case ImageClassificationTask():
            return {"logits": _images(task)}
        case RecommendationTask():
            most = _positions(task)
            return {
                "scores": Program(
                    "of every item, B V, after histories padded on the left, where valid is false; "
                    "the items are those of items.json",
                    lambda model, items, valid: {"scores": next_scores(model, items, valid)},
                    {"items": ("int32", "B, T"), "valid": ("bool", "B, T")},
                    _limits(B=None, T=most),
                    {"B": 1, "T": most or 64},
                )
            }
        case DetectionTask():
            return {"detections": _detections(task)}
        case QuestionAnsweringTask():
            what = "of the start and the end of the answer, B T 2; segments are 1 in the document"
            return {"logits": _encoder(task, what)}
        case StoriesTask():
            return {"answer": _stories(task)}
        case ContrastiveTask():
            return _towers(task)
        case CaptioningTask():
            room = max_new_tokens or _decoding_length(task, _positions(task))
            return _captioner(task, room, run.rules)
    raise UserError(
        f"{run.directory.path}: {run.description}, of which there is no export; wanted a "
        "translator, language model, classifier, captioner, encoder of masked tokens, "
        "recommender, reader, detector, or a pair of encoders of pictures and texts"
    )


def _decoding_length(task: Any, longest: int | None) -> int:
    """Return the length of outputs by the config, at most the positions of the model."""
    length: int = task.config.decoding.max_length
    return length if longest is None else min(length, longest)


def _towers(task: ContrastiveTask) -> dict[str, Program]:
    """Return the programs of both encoders."""
    config: Any = task.config.model
    side = config.image.image_size if task.preparation is not None else task.data.size
    longest = config.longest
    # SigLIP reads padding up to its longest text.
    length = str(longest) if config.text.pooling == "last" else "T"
    limits = _limits(B=None, **({"T": longest} if length == "T" else {}))
    return {
        "image_features": Program(
            "of norm 1, B F, from pixels 0 .. 255",
            lambda model, images: {
                "features": model.image_features(task.source({"source": images}))
            },
            {"images": ("uint8", f"B, {side}, {side}, {config.image.channels}")},
            _limits(B=None),
            {"B": 1},
        ),
        "text_features": Program(
            "of norm 1, B F, of texts with their begin and end; logits are cosines times "
            "exp(log_scale), plus logit_bias where there is one",
            lambda model, tokens: {"features": model.text_features(tokens)},
            {"tokens": ("int32", f"B, {length}")},
            limits,
            {"B": 1, "T": min(32, longest)},
        ),
    }


def _detections(task: DetectionTask) -> Program:
    height, width = task.data.size

    def run(model: Any, images: Array) -> Outputs:
        found = task.forward(model, images).last
        return {
            "probabilities": probabilities(found.logits, model.config),
            "boxes": to_corners(found.boxes),
        }

    config: Any = task.config.model
    return Program(
        "of every class, B Q C, whose names are in export.json, and boxes, B Q 4: left, top, right "
        "and bottom in shares of the picture; from pixels 0 .. 255, without margins",
        run,
        {"images": ("uint8", f"B, {height}, {width}, {config.channels}")},
        _limits(B=None),
        {"B": 1},
    )


def _positions(task: Task) -> int | None:
    return task.config.model.longest


def _limits(**most: int | None) -> tuple[str, ...]:
    return tuple(
        limit
        for size, bound in most.items()
        for limit in (f"{size} >= 1", *([] if bound is None else [f"{size} <= {bound}"]))
    )


def _translator(
    ids: TokenIds, longest: int | None, room: int, rules: Rules = DEFAULT_RULES
) -> dict[str, Program]:
    def search(model: Any, source: Array) -> Outputs:
        found, _ = searched(model, ids, rules, source, room, beam=1, alpha=0.0)
        return {
            "tokens": found.tokens[:, 0],
            "lengths": found.lengths[:, 0],
            "log_probs": found.log_probs[:, 0],
            "weights": found.weights[:, 0],
        }

    def force(model: Any, source: Array, target: Array) -> Outputs:
        return {"logits": model(source, target)}

    if longest is not None and room > longest:
        raise UserError(f"--max-new-tokens {room}: the model has {longest} positions")
    ends = " or ".join(map(str, rules.end_ids(ids)))
    sizes = {"B": 1, "S": min(64, longest or 64), "T": min(64, longest or 64)}
    return {
        "translate": Program(
            f"the most probable token at each of at most {room} steps, their number with the "
            f"end (id {ends}), the sum of their log P, and the attention of each step",
            search,
            {"source": ("int32", "B, S")},
            _limits(B=None, S=longest),
            sizes,
        ),
        "logits": Program(
            f"of every next token of a known target, which begins with id {ids.start}",
            force,
            {"source": ("int32", "B, S"), "target": ("int32", "B, T")},
            _limits(B=None, S=longest, T=longest),
            sizes,
        ),
    }


def _captioner(task: CaptioningTask, room: int, rules: Rules) -> dict[str, Program]:
    """Return the programs of a translator, for pixels in the place of a source text."""
    size, channels = task.data.size, task.data.channels
    found = _translator(ids_of(task.tokenizer), _positions(task), room, rules)

    def reads_pixels(run: Callable[..., Outputs]) -> Callable[..., Outputs]:
        return lambda model, images, **more: run(model, task.source({"source": images}), **more)

    return {
        {"translate": "caption"}.get(name, name): dataclasses.replace(
            program,
            run=reads_pixels(program.run),
            meaning=f"{program.meaning}; images have pixels 0 .. 255",
            inputs={"images": ("uint8", f"B, {size}, {size}, {channels}")}
            | {n: x for n, x in program.inputs.items() if n != "source"},
            limits=tuple(limit for limit in program.limits if not limit.startswith("S ")),
        )
        for name, program in found.items()
    }


def _transcriber(task: SpeechTask, room: int, rules: Rules) -> dict[str, Program]:
    """Return the programs of a translator that reads samples, of a length that features divide."""
    model: Any = task.config.model
    samples = model.source.step * hop_size(task.rate)
    source = {"source": ("float32", f"B, {samples}*L")}
    about = f"; source is samples at {task.rate} Hz between -1 and 1, NaN after the end of each"
    limits = _limits(B=None, L=model.source_slots)
    made = _translator(ids_of(task.tokenizer), None, room, rules)
    words = {"target": ("int32", "B, T")}
    sizes = {"B": 1, "L": min(75, model.source_slots or 75), "T": min(64, _positions(task) or 64)}
    transcribe, logits = made["translate"], made["logits"]
    return {
        "transcribe": Program(transcribe.meaning + about, transcribe.run, source, limits, sizes),
        "logits": Program(
            logits.meaning + about,
            logits.run,
            source | words,
            (*limits, *_limits(T=_positions(task))),
            sizes,
        ),
    }


def _language_model(
    task: CausalLMTask, ends: tuple[int, ...], max_new_tokens: int | None
) -> dict[str, Program]:
    most = _positions(task)
    room = max_new_tokens or (most or 2 * task.settings.context) // 2
    prompt = None if most is None else most - room
    if prompt is not None and prompt < 1:
        raise UserError(f"--max-new-tokens {room}: the model has {most} positions, prompt included")
    pad = task.tokenizer.pad_id

    def write(model: Any, tokens: Array) -> Outputs:
        found = generate(model, tokens, max_new_tokens=room, eos_id=ends, pad_id=pad)
        return {"tokens": found.tokens[:, 0], "lengths": found.lengths[:, 0]}

    return {
        "logits": Program(
            "of each next token; what stands behind a token does not change its own",
            lambda model, tokens: {"logits": model(tokens)},
            {"tokens": ("int32", "B, T")},
            _limits(B=None, T=most),
            {"B": 1, "T": task.settings.context},
        ),
        "generate": Program(
            f"the most probable {room} tokens after prompts of one length, to the end (id "
            f"{' or '.join(map(str, ends)) or 'none'})",
            write,
            {"tokens": ("int32", "B, T")},
            _limits(B=None, T=prompt),
            {"B": 1, "T": min(task.settings.context, prompt or task.settings.context)},
        ),
    }


def _encoder(task: Any, what: str) -> Program:
    most = _positions(task)
    return Program(
        f"{what}; valid is false at padding",
        lambda model, tokens, segments, valid: {
            "logits": model(tokens, segments=segments, valid=valid)
        },
        {"tokens": ("int32", "B, T"), "segments": ("int32", "B, T"), "valid": ("bool", "B, T")},
        _limits(B=None, T=most),
        {"B": 1, "T": min(64, most or 64)},
    )


def _stories(task: StoriesTask) -> Program:
    def answer(model: Any, stories: Array, question: Array, valid: Array) -> Outputs:
        logits, maps = model(stories, question, valid=valid, capture=True)
        return {"logits": logits, "weights": jnp.concatenate(list(maps.values()), axis=1)[:, :, 0]}

    return Program(
        "logits of the answer, B V, and weights of the sentences in each hop, B K M; words are "
        "numbers of words.json from 2, 0 is none; the latest sentence is the first; valid is false "
        "where there is no sentence",
        answer,
        {
            "stories": ("int32", "B, M, J"),
            "question": ("int32", "B, Q"),
            "valid": ("bool", "B, M"),
        },
        _limits(B=None, M=task.memory, J=None, Q=None),
        {"B": 1, "M": min(20, task.memory), "J": 8, "Q": 8},
    )


def _images(task: ImageClassificationTask) -> Program:
    config: Any = task.config.model
    mean, std = jnp.asarray(task.mean), jnp.asarray(task.std)
    side = None if getattr(config, "image_size", None) is None else task.side
    # A residual network halves height and width twice.
    height, width = ("4*H", "4*W") if side is None else (side, side)
    return Program(
        "of the classes, whose names are in export.json, from pixels 0 .. 255",
        lambda model, images: {"logits": model(normalise(to_float(images), mean, std))},
        {"images": ("uint8", f"B, {height}, {width}, {config.channels}")},
        _limits(B=None, **({} if side is not None else {"H": None, "W": None})),
        {"B": 1, "H": 8, "W": 8},
    )
