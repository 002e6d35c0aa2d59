"""Settings of a folder of pretrained weights: its task, tokenizers and generation."""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnzoo import pretrained
from attnzoo.config.bert import BertConfig
from attnzoo.config.data import FileTokenizerConfig
from attnzoo.config.experiment import DecodingConfig
from attnzoo.config.tasks import (
    CausalLMConfig,
    ContrastiveConfig,
    ImageClassificationConfig,
    MaskedLMConfig,
    QuestionAnsweringConfig,
    SequenceClassificationConfig,
    SpeechRecognitionConfig,
    TokenClassificationConfig,
    TranslationConfig,
)
from attnzoo.data.picture_preparation import PicturePreparation
from attnzoo.data.pretrained_tokenizers import SPIECE, FolderTokenizers
from attnzoo.data.text_tokenizers import build_tokenizer
from attnzoo.data.tokenizers import Frame
from attnzoo.errors import UserError
from attnzoo.files import read_json
from attnzoo.pretrained import files, origin
from attnzoo.tasks import task_class
from attnzoo.tasks.class_answers import ONE_CLASS, PROBLEM_TYPES, SOME_CLASSES
from attnzoo.tasks.run_file import ImageLabels
from attnzoo.tasks.transcription import Hearing, TranscriptionTask
from attnzoo.training import hearing
from attnzoo.training.folder_config import FolderConfig, FolderData, NoTaskConfig
from attnzoo.training.generation_settings import (
    SAMPLED,
    SEARCHED,
    TOKENS,
    GenerationSettings,
    check_settings,
)

logger = logging.getLogger(__name__)

ENCODERS = {
    "lm": MaskedLMConfig,
    "sequence": SequenceClassificationConfig,
    "token": TokenClassificationConfig,
    "span": QuestionAnsweringConfig,
}
"""Tasks of encoders by their head."""


class FolderSettings:
    """Files of a folder beside its weights, and the task that they describe.

    Each method returns arguments of ``attnzoo.training.folder.Folder``.
    """

    def __init__(self, folder: Path, model: Any):
        self.folder, self.model = folder, model
        self.name = re.sub(r"[^\w.-]", "-", folder.resolve().name) or "model"
        described = (folder / one for one in (files.CONFIG, origin.OWN))
        self.described = next((path for path in described if path.exists()), folder)
        self.config: dict[str, Any] = {}
        if self.described != folder:
            self.config = read_json(self.described)
        self.place = folder / origin.GENERATION
        self.generation: dict[str, Any] = {}
        if self.place.exists():
            self.generation = read_json(self.place)
        else:  # files of before 2023
            self.place = self.described
            kept = (*SEARCHED, *SAMPLED, "do_sample", "repetition_penalty")
            self.generation = {k: self.config[k] for k in kept if k in self.config}

    @property
    def vocabulary(self) -> int:
        """Size of the vocabulary of what the model writes."""
        return pretrained.sizes_of(self.model)[-1]

    def encoder(self) -> dict[str, Any]:
        head = self.model.config.head if isinstance(self.model.config, BertConfig) else "none"
        if head == "none":
            return {"task": None, "config": self._config(NoTaskConfig())}
        config = self._config(ENCODERS[head]())
        named = head in ("sequence", "token")
        more = {"names": self._names(self.model.config.num_classes)} if named else {}
        task = _task(config, **self._tokenizer(), **more)
        if head == "sequence":
            task.problem_type = self._problem_type(len(task.names))
        return {"task": task, "config": config}

    def images(self) -> dict[str, Any]:
        model = self.model.config
        prepared = PicturePreparation.read(self.folder, model.image_size, model.channels)
        if self.model.head is None:
            config, task = self._config(NoTaskConfig()), None
        else:
            config = self._config(ImageClassificationConfig())
            count = self.model.head.kernel.shape[-1]
            labels = ImageLabels(self._names(count), prepared.mean, prepared.deviation)
            task = _task(config, labels=labels)
            task.preparation, task.problem_type = prepared, self._problem_type(count)
        return {"task": task, "config": config, "preparation": prepared}

    def towers(self) -> dict[str, Any]:
        image = self.model.config.image
        prepared = PicturePreparation.read(self.folder, image.image_size, image.channels)
        if not any((self.folder / name).exists() for name in (files.TOKENIZER, SPIECE)):
            raise UserError(
                f"{self.folder}: no {files.TOKENIZER}, which transformers writes for its fast "
                f"tokenizers, and no {SPIECE} (SigLIP)"
            )
        text, tokens = self.model.config.text, FolderTokenizers(self.folder)
        end = tokens.token("eos")
        frame = tokens.template or Frame((), (text.eos_id if end is None else end,))
        tokenizer: Any = tokens.side("target", frame, text.pad_id).resized(self.vocabulary)
        pixels = ImageLabels((), prepared.mean, prepared.deviation)
        config = self._config(ContrastiveConfig())
        task = _task(config, tokenizer=tokenizer, pixels=pixels)
        task.preparation = prepared
        return {"task": task, "config": config, "preparation": prepared}

    def language_model(self) -> dict[str, Any]:
        found = self._generation(translates=False)
        context = min(self.model.max_length or 256, 256)
        config = self._config(CausalLMConfig(context=context))
        task = _task(config, **self._tokenizer())
        ids = {name: self._ids(name) for name in ("bos_token_id", "eos_token_id")}
        ends = ids["eos_token_id"]
        library = pretrained.tokenizer(self.folder)

        def framed(text: str) -> list[int]:
            begin = ids["bos_token_id"] or ends
            return library.encode(text).ids or list(begin[:1])

        settings: dict[str, Any] = {"task": task, "config": config}
        if self.generation or self.place != self.described:
            names = ("sampling", "max_new_tokens", "max_length")
            settings |= {name: getattr(found, name) for name in names}
        return settings | {"framed": framed, "end_ids": ends}

    def transcriber(self, source: str | None, target: str | None) -> dict[str, Any]:
        model = self.model.config
        hearing.check_preparation(self.folder, model)
        self.generation = hearing.generation(self.generation, self.config)
        prompt = hearing.Prompt(self.generation, self.place, self.vocabulary)
        if target is not None and target not in ("en", source):
            raise UserError(
                f"{self.folder}: no translation into {target}; wanted --target-language en, or none"
            )
        to = None if target is None else "transcribe" if source == target else "translate"
        said = prompt.rules(source, to)
        room = self.model.max_length - 1 - said.prompt_length
        if room < 1:
            raise UserError(
                f"{self.place}: a prompt of {said.prompt_length + 1} tokens; the model has "
                f"positions for {self.model.max_length}"
            )
        found = self._generation(translates=True, longest=room, more=hearing.KNOWN)
        ends = self._ids("eos_token_id") or (model.eos_id,)
        rules = dataclasses.replace(
            found.rules, ends=ends, prompt=said.prompt, languages=said.languages
        )
        heads = prompt.heads(model.decoder_layers, model.cross_attention.num_heads)
        names = {token: code for code, token in prompt.languages().items()}
        width = prompt.width(self.config.get("median_filter_width", 7))
        tokens = FolderTokenizers(self.folder)
        frame = Frame((self._start(), *said.prompt), (model.eos_id,))
        tokenizer: Any = tokens.side("target", frame, model.pad_id, ends)
        decoding = dataclasses.replace(found.decoding, batch_size=8)
        config = self._config(SpeechRecognitionConfig(), decoding)
        times = prompt.rules(source, to, timed=True)
        timed = None
        if times.times is not None:
            timed = dataclasses.replace(rules, prompt=times.prompt, times=times.times)
        task = TranscriptionTask(config, tokenizer, Hearing(rules, heads, width, names, timed))
        return {"task": task, "config": config, "rules": rules}

    def translator(self, source: str | None, target: str | None) -> dict[str, Any]:
        tokens = FolderTokenizers(self.folder)
        model = self.model.config
        begin = self._start()
        before, described = self._prefix(tokens, source, target)
        start, end = (begin,), model.eos_id
        first, frame = None, tokens.template or Frame((), (end,))
        if tokens.languages:
            frame, start, first = self._languages(tokens, frame, source, target)
        elif before:
            frame = Frame((*frame.before, *before), frame.after)
        elif (source or target) and not described:
            known = [tokens.config.get(f"{side}_lang") for side in ("source", "target")]
            if [source or known[0], target or known[1]] != known:
                pair = " to ".join(map(str, known)) if all(known) else "one pair"
                given = zip((source, target), known, strict=True)
                wrong = next(one for one, its in given if one and one != its)
                raise UserError(f"{self.folder}: no language {wrong}; it translates {pair} alone")
        found = self._generation(translates=True)
        ends = self._ids("eos_token_id") or (end,)
        rules = dataclasses.replace(found.rules, ends=ends)
        rules = rules if first is None else dataclasses.replace(rules, first=first)
        if rules.first is not None:
            if rules.first in tokens.specials("target"):  # otherwise a word of the text
                start = (*start, rules.first)
        elif tokens.template and not tokens.languages:
            start = (*start, *tokens.template.before)  # as its tokenizer begins a target
        data = FolderData((source or "", target or ""))
        config = self._config(TranslationConfig(), found.decoding, data)
        own: Any = tokens.side("source", frame, model.pad_id)
        theirs: Any = tokens.side("target", Frame(start, (end,)), model.pad_id, ends)
        task = _task(config, source=own, target=theirs)
        return {"task": task, "config": config, "rules": rules}

    def _languages(
        self, tokens: FolderTokenizers, frame: Frame, source: str | None, target: str | None
    ) -> tuple[Frame, tuple[int, ...], int | None]:
        """Return the frame of a source, the start of a target, and its forced first token."""
        model = self.model.config
        kind = str(self.config.get("model_type"))
        forced, start = self._ids("forced_bos_token_id"), self._start()
        source = source or tokens.config.get("src_lang")
        target = target or tokens.config.get("tgt_lang")
        if target is None:
            code = next((c for c in map(tokens.code_of, forced) if c), None)
            target = code or tokens.code_of(start)
        if target is None:
            known = ", ".join(sorted(tokens.languages))
            raise UserError(
                f"{self.folder}: a translator of several languages; wanted --target-language, one "
                f"of {known}"
            )
        to = tokens.language(target)
        if kind == "marian":  # the target language begins the source
            if source is not None and source != tokens.config.get("source_lang"):
                raise UserError(
                    f"{self.folder}: no choice of a source language ({source}); its texts begin "
                    "with the target language alone"
                )
            return Frame((to,), (model.eos_id,)), (start,), None
        if source is None:
            codes = [tokens.code_of(i) for i in (*frame.before, *frame.after)]
            source = next((code for code in codes if code), None)
        if source is None:
            raise UserError(f"{self.folder}: wanted --source-language, its texts name it")
        of, end = tokens.language(source), model.eos_id
        name = str(tokens.config.get("tokenizer_class") or "")
        behind = name in ("MBartTokenizer", "MBartTokenizerFast") or bool(
            tokens.config.get("legacy_behaviour")
        )
        if behind is False and kind == "mbart" and not name.startswith("MBart50"):
            behind = any(tokens.code_of(i) for i in frame.after)
        around = Frame((), (end, of)) if behind else Frame((of,), (end,))
        starts = name in ("MBartTokenizer", "MBartTokenizerFast") or tokens.code_of(start)
        return (around, (to,), None) if starts else (around, (start,), to)

    def _prefix(
        self, tokens: FolderTokenizers, source: str | None, target: str | None
    ) -> tuple[tuple[int, ...], bool]:
        """Return the ids of T5's prefix, and whether the folder describes one.

        Settings of generation that config.json has for this pair are taken over.
        """
        if self.config.get("model_type") != "t5" or not (source and target):
            return (), False
        described = self.config.get("task_specific_params") or {}
        names = (f"translation_{source}_to_{target}", f"translate {source} to {target}: ")
        for key, values in described.items():
            if isinstance(values, dict) and (key == names[0] or values.get("prefix") == names[1]):
                check_settings(values, self.described, self.vocabulary)
                self.generation |= {k: v for k, v in values.items() if k != "prefix"}
                return _prefix_ids(tokens, str(values.get("prefix", ""))), True
        known = [key for key in described if key.startswith("translation_")]
        told = f"has {', '.join(known)}" if known else "names no languages"
        logger.warning(
            "%s: task_specific_params %s, not from %s to %s; texts begin with %r all the same",
            *(self.described, told, source, target, names[1]),
        )
        return _prefix_ids(tokens, names[1]), True

    def _generation(
        self, *, translates: bool, longest: int | None = None, more: Sequence[str] = ()
    ) -> GenerationSettings:
        longest = longest or self.model.max_length
        # Lists are not checked: transformers writes its defaults for a Whisper of any vocabulary.
        ids = {k: v for k, v in self.config.items() if k in TOKENS and k.endswith("_token_id")}
        check_settings(ids, self.described, self.vocabulary)
        found = GenerationSettings.read(
            self.generation,
            self.place,
            translates=translates,
            longest=longest,
            vocabulary=self.vocabulary,
            followed_elsewhere=more,
        )
        if found.not_followed:
            logger.warning("%s: not followed: %s", self.place, ", ".join(found.not_followed))
        return found

    def _config(
        self, task: Any, decoding: DecodingConfig | None = None, data: FolderData | None = None
    ) -> FolderConfig:
        model = self.model.config
        return FolderConfig(
            name=self.name,
            task=task,
            model=model,
            decoding=decoding or DecodingConfig(),
            data=data or FolderData(),
        )

    def _tokenizer(self) -> Mapping[str, Any]:
        return {"tokenizer": build_tokenizer(FileTokenizerConfig(path=self.folder), [])}

    def _ids(self, name: str) -> tuple[int, ...]:
        """Return the ids of a special token, which may have several; none if it is not named."""
        value, place = self.generation.get(name), self.place
        if value is None:
            value, place = self.config.get(name), self.described
        check_settings({name: value}, place, self.vocabulary)
        return tuple(value) if isinstance(value, list) else () if value is None else (value,)

    def _start(self) -> int:
        """Return the first input of a translator's decoder."""
        found = self._ids("decoder_start_token_id")
        return found[0] if found else self.model.config.start_id

    def _problem_type(self, count: int) -> str:
        """Return the kind of a classifier's answers, by default as pipelines of transformers."""
        found = self.config.get("problem_type")
        if found is None:
            return SOME_CLASSES if count == 1 else ONE_CLASS
        if found not in PROBLEM_TYPES:
            raise UserError(
                f"{self.described}: problem_type={found!r} is not supported; wanted "
                f"{', '.join(PROBLEM_TYPES)} or null"
            )
        return found

    def _names(self, count: int) -> tuple[str, ...]:
        """Return the names of the classes, or their numbers."""
        named = self.config.get("id2label") or {}
        found = tuple(str(named[key]) for key in sorted(named, key=int))
        return found if len(found) == count else tuple(map(str, range(count)))


def _prefix_ids(tokens: FolderTokenizers, prefix: str) -> tuple[int, ...]:
    """Return the ids of a text before every source, as if both were read as one text.

    A warning says where they are not, because the prefix ends within a word.
    """
    text, both = tokens.text_ids("a"), tokens.text_ids(f"{prefix}a")
    if text and both[-len(text) :] == text:
        return both[: -len(text)]
    logger.warning(
        "%s: the prefix %r ends within a word; its tokens stay apart from those of a text",
        *(tokens.folder, prefix),
    )
    return tokens.text_ids(prefix)


def _task(config: Any, **parts: Any) -> Any:
    task: Any = task_class(config.task)
    return task(config, **parts)
