"""Files of a Whisper's folder beside its weights: the prompt of a transcript, and the sound."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnzoo.config.transformer import TransformerConfig
from attnzoo.data.picture_preparation import read_preparation
from attnzoo.decoding.rules import Rules, TimeTokens
from attnzoo.errors import UserError
from attnzoo.tasks.transcription import Heads

logger = logging.getLogger(__name__)

FOLLOWED = (
    "lang_to_id",
    "task_to_id",
    "language",
    "task",
    "no_timestamps_token_id",
    "forced_decoder_ids",
    "is_multilingual",
    "alignment_heads",
    "median_filter_width",
    "max_initial_timestamp_index",
)
"""Settings of a generation_config.json that only Whisper has; followed here."""
WITHOUT_EFFECT = (
    "prev_sot_token_id",  # what was said before is no part of the prompt here
)
KNOWN = (*FOLLOWED, *WITHOUT_EFFECT)
"""Settings of a generation_config.json that ``GenerationSettings`` need not know."""
TASKS = ("transcribe", "translate")
WINDOW = {
    "sampling_rate": 16_000,
    "hop_length": 160,
    "n_fft": 400,
    "padding_value": 0.0,
    "padding_side": "right",
    "dither": 0.0,
    "do_normalize": False,
    "feature_extractor_type": "WhisperFeatureExtractor",
}
"""Settings of a preprocessor_config.json of which no other value is supported."""
RENAMED = {"javanese": "jw", "myanmar": "my", "haitian": "ht", "pushto": "ps", "mandarin": "zh"}
"""Codes of languages whose English names or codes in Whisper are not those of the Unicode CLDR."""
RECORDS = ("return_attention_mask", "processor_class", "mel_filters", "nb_max_frames", "n_samples")
"""Fields of a preprocessor_config.json that follow from the others, or change no number."""


def check_preparation(folder: Path, model: TransformerConfig) -> None:
    """Check that a folder's feature extractor makes the log-mel frames that the model reads.

    Raises:
      UserError: one line that names a setting that is not supported.
    """
    path, values = read_preparation(folder, "feature_extractor")
    source: Any = model.source
    seconds = source.length * source.step / 100
    wanted = {**WINDOW, "feature_size": source.mels, "chunk_length": seconds}
    given = {"feature_size": 80, "chunk_length": 30} | (values or {})
    for name, value in given.items():
        if name in wanted and value != wanted[name] and not (value is None and name in WINDOW):
            raise UserError(f"{path}: {name}={value!r} is not supported; wanted {wanted[name]!r}")
    others = [f"{k}={v!r}" for k, v in given.items() if k not in wanted and k not in RECORDS]
    if others:
        logger.warning("%s: not followed: %s", path, ", ".join(others))


def generation(values: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of generation with those of an older config.json.

    The longest output is counted without the prompt, as transformers counts it for Whisper.
    """
    older = ("forced_decoder_ids", "suppress_tokens", "begin_suppress_tokens")
    found = {name: config[name] for name in older if name in config} | dict(values)
    if found.get("max_new_tokens") is None and found.get("max_length") is not None:
        found["max_new_tokens"] = found["max_length"]
    return found


class Prompt:
    """Prompt, languages and alignment heads that a generation_config.json describes.

    Args:
      values: the settings, with those of an older config.json.
      place: file, for messages.
      vocabulary: number of tokens.
    """

    def __init__(self, values: Mapping[str, Any], place: Path, vocabulary: int):
        self.values, self.place, self.vocabulary = values, place, vocabulary

    def languages(self) -> dict[str, int]:
        """Return the tokens of languages by code."""
        return {name.strip("<|>"): token for name, token in self._ids("lang_to_id").items()}

    def rules(self, language: str | None, task: str | None, *, timed: bool = False) -> Rules:
        """Return the rules of a transcript, with the prompt in them.

        ``language`` and ``task`` go before those of the file; without a language it is detected.
        With ``timed`` the transcript has time tokens, if the file names the token without them.

        Raises:
          UserError: a setting of another form, or an unknown language or task.
        """
        language, task = language or self._word("language"), task or self._word("task")
        known, tasks = self.languages(), self._ids("task_to_id")
        if (language or task) and self.values.get("is_multilingual") is False:
            raise UserError(
                f"{self.place}: a model of English alone, no language={language} or task={task}; "
                "wanted neither"
            )
        prompt = [] if language or task else self._forced()
        detected = known if language is None and prompt[:1] in ([], [None]) else {}
        if language is not None:
            prompt = [self._language(language, known)]
        if task is not None:
            if task not in TASKS or task not in tasks:
                names = " or ".join(tasks) or "none: task_to_id is missing"
                raise UserError(f"{self.place}: task={task!r} is not known; wanted {names}")
            prompt = [token for token in prompt if token not in tasks.values()] + [tasks[task]]
        elif language is not None and "transcribe" in tasks:
            prompt.append(tasks["transcribe"])
        silent = self._token("no_timestamps_token_id", self.values.get("no_timestamps_token_id"))
        prompt = [token for token in prompt if token != silent]
        times = None
        if silent is not None and timed and silent + 1 < self.vocabulary:
            times = TimeTokens(silent + 1, self._latest_start())
        elif silent is not None:
            prompt.append(silent)
        return Rules(
            times=times,
            prompt=tuple(token for token in prompt if token is not None),
            languages=tuple(detected.values()),
        )

    def _latest_start(self) -> int | None:
        value = self.values.get("max_initial_timestamp_index")
        if value is not None and (type(value) is not int or value < 0):
            raise UserError(
                f"{self.place}: max_initial_timestamp_index={value!r}; wanted a whole number"
            )
        return value

    def heads(self, layers: int, heads: int) -> Heads | None:
        """Return the alignment heads, None if the file has none; UserError for unknown ones."""
        value = self.values.get("alignment_heads")
        if value is None:
            return None
        pairs: list[Any] = value if isinstance(value, list) and value else [None]
        found = []
        for pair in pairs:
            whole = isinstance(pair, list) and [type(one) for one in pair] == [int, int]
            if not (whole and 0 <= pair[0] < layers and 0 <= pair[1] < heads):
                raise UserError(
                    f"{self.place}: alignment_heads has {pair!r}; wanted [layer, head] with a "
                    f"layer from 0 to {layers - 1} and a head from 0 to {heads - 1}"
                )
            found.append((pair[0], pair[1]))
        return tuple(found)

    def width(self, default: Any) -> int:
        """Return the width of the median filter; ``default`` is that of config.json."""
        value = self.values.get("median_filter_width", default)
        if type(value) is not int or not 0 < value < 1_000 or value % 2 == 0:
            raise UserError(
                f"{self.place}: median_filter_width={value!r}; wanted an odd whole number"
            )
        return value

    def _language(self, name: str, known: Mapping[str, int]) -> int:
        code = name.lower().strip("<|>")
        if code not in known:
            code = _code_of(code)
        if code not in known:
            raise UserError(
                f"{self.place}: language {name!r} is not known; wanted one of "
                f"{', '.join(known) or 'none: lang_to_id is missing'}"
            )
        return known[code]

    def _forced(self) -> list[int | None]:
        """Return the tokens of ``forced_decoder_ids``: [[1, token], [2, token], ...]."""
        value, found = self.values.get("forced_decoder_ids") or [], []
        for number, pair in enumerate(value if isinstance(value, list) else [None], start=1):
            if not (isinstance(pair, list) and len(pair) == 2 and pair[0] == number):
                raise UserError(
                    f"{self.place}: forced_decoder_ids={value!r}; wanted [[1, token], [2, token], "
                    "...]"
                )
            found.append(self._token("forced_decoder_ids", pair[1]))
        return found

    def _word(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{self.place}: {name}={value!r}; wanted a string")
        return value

    def _ids(self, name: str) -> dict[str, int]:
        value = self.values.get(name) or {}
        if not isinstance(value, dict):
            raise UserError(f"{self.place}: {name}={value!r}; wanted token ids by name")
        for token in value.values():
            if self._token(name, token) is None:
                raise UserError(f"{self.place}: {name} has a token null; wanted an id")
        return value

    def _token(self, name: str, value: Any) -> int | None:
        if value is not None and (type(value) is not int or not 0 <= value < self.vocabulary):
            raise UserError(
                f"{self.place}: {name} has token {value!r}; wanted one of the model's "
                f"{self.vocabulary:,} tokens, 0 to {self.vocabulary - 1}"
            )
        return value


def _code_of(name: str) -> str:
    """Return the code of a language by its English name, or the name itself."""
    from babel import Locale

    names = {title.lower(): code for code, title in Locale("en").languages.items()}
    return RENAMED.get(name) or names.get(name, name)
