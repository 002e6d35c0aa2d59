"""Settings of generation in a folder of transformers: followed ones, and others by name."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnzoo.config.experiment import DecodingConfig
from attnzoo.decoding.rules import Rules
from attnzoo.decoding.sampling import Sampling
from attnzoo.errors import UserError

IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
SAMPLED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
SEARCHED = (
    "num_beams",
    "length_penalty",
    "early_stopping",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
)
NEUTRAL: dict[str, Any] = {
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "repetition_penalty": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "diversity_penalty": 0.0,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "do_sample": False,
    "length_penalty": 1.0,
    "num_beams": 1,
    "early_stopping": False,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "guidance_scale": 1.0,
    "return_timestamps": False,
}
"""Values with which a setting changes nothing."""
WITHOUT_EFFECT = (
    "transformers_version _from_model_config use_cache cache_implementation cache_config "
    "output_attentions output_hidden_states output_scores output_logits return_dict_in_generate "
    "disable_compile compile_config is_assistant max_matching_ngram_size _commit_hash "
    "max_cache_len prefill_chunk_size continuous_batching_config low_memory"
).split()
SPECULATION = (
    "assistant_",
    "num_assistant_",
    "target_lookbehind",
    "prompt_lookup_",
    "speculation_",
    "use_mtp",
)
"""Beginnings of settings of speculative decoding, which changes no output."""
STOPS: dict[Any, Any] = {True: "full", "never": "bound"}


@dataclasses.dataclass(frozen=True)
class _Number:
    """Range of a number, whole if ``whole``; ``above``: without ``least`` itself."""

    least: int | None
    most: int | None = None
    whole: bool = False
    above: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        least = f"above {self.least}" if self.above else f"of at least {self.least}"
        most = "" if self.most is None else f" and at most {self.most}"
        return kind if self.least is None else f"{kind} {least}{most}"

    def has(self, value: Any) -> bool:
        if type(value) is not int and (self.whole or type(value) is not float):
            return False
        low = self.least is None or (value > self.least if self.above else value >= self.least)
        return math.isfinite(value) and low and (self.most is None or value <= self.most)


NUMBERS = {
    "num_beams": _Number(1, most=1_000, whole=True),
    "max_length": _Number(2, whole=True),  # with the start token
    "max_new_tokens": _Number(1, whole=True),
    "min_length": _Number(0, whole=True),
    "min_new_tokens": _Number(0, whole=True),
    "no_repeat_ngram_size": _Number(0, whole=True),
    "length_penalty": _Number(None),
    "repetition_penalty": _Number(0, above=True),
}
SAMPLING_NUMBERS = {
    "temperature": _Number(0, above=True),
    "top_k": _Number(0, whole=True),
    "top_p": _Number(0, most=1, above=True),
    "min_p": _Number(0, most=1),
}
"""Settings that are read only where a language model samples."""
SAMPLING_ALONE = {*SAMPLING_NUMBERS, "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
TOP_K = 50
"""Value of ``top_k`` in transformers where a folder samples and names none."""
TOKENS = {
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 1,
    "suppress_tokens": 1,
    "begin_suppress_tokens": 1,
    "bad_words_ids": 2,
}
"""Settings that are token ids, with the depth of the lists that they may be."""


def check_settings(values: Mapping[str, Any], place: Path, vocabulary: int) -> None:
    """Check the settings of generation that are followed, each by its type and range.

    ``vocabulary`` is the number of tokens.

    Raises:
      UserError: one line with file, setting, value, and what was wanted.
    """
    numbers = NUMBERS | (SAMPLING_NUMBERS if values.get("do_sample") else {})
    for name, value in values.items():
        if value is None:
            continue
        if name in numbers and not numbers[name].has(value):
            raise UserError(f"{place}: {name}={value!r}; wanted {numbers[name]}")
        if name == "do_sample" and not isinstance(value, bool):
            raise UserError(f"{place}: {name}={value!r}; wanted true or false")
        if name == "early_stopping" and value not in (True, False, "never"):
            raise UserError(f'{place}: {name}={value!r}; wanted true, false or "never"')
        if name == "bad_words_ids" and not (
            isinstance(value, list) and all(isinstance(word, list) and word for word in value)
        ):
            raise UserError(f"{place}: {name}={value!r}; wanted lists of token ids")
        if name in TOKENS:
            for token in _flat(value, TOKENS[name]):
                if type(token) is not int:
                    raise UserError(f"{place}: {name}={value!r}; wanted token ids")
                if token == -1 and name == "pad_token_id":
                    continue  # none: so in the first conversions of LLaMA
                if not 0 <= token < vocabulary:
                    raise UserError(
                        f"{place}: {name} has token {token}; wanted one of the model's "
                        f"{vocabulary:,} tokens, 0 to {vocabulary - 1}"
                    )


def _flat(value: Any, depth: int) -> list[Any]:
    """Return the values in lists of at most this depth."""
    if depth == 0 or not isinstance(value, list):
        return [value]
    return [one for part in value for one in _flat(part, depth - 1)]


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Settings of a folder, in attnzoo's terms.

    Attributes:
      decoding: beams, length penalty and longest output of a translator.
      rules: forced and forbidden tokens of a translator.
      sampling: settings of a language model; greedy unless the folder samples.
      max_new_tokens: number of tokens that a language model writes, None if the folder has none.
      max_length: number of tokens of prompt and continuation together, likewise; None where
        ``max_new_tokens`` is said, which goes first.
      not_followed: "name=value" of the settings that neither of them has.
    """

    decoding: DecodingConfig
    rules: Rules
    sampling: Sampling
    max_new_tokens: int | None
    max_length: int | None
    not_followed: tuple[str, ...]

    @classmethod
    def read(
        cls,
        values: Mapping[str, Any],
        place: Path,
        *,
        translates: bool,
        longest: int | None,
        vocabulary: int,
        followed_elsewhere: Sequence[str] = (),
    ) -> "GenerationSettings":
        """Read the settings of a generation_config.json, or those of an older config.json.

        ``longest`` is the number of target positions, None for any; ``vocabulary`` that of tokens;
        ``followed_elsewhere`` are names of settings that another reader follows.

        Raises:
          UserError: a value of another type or range than the setting has.
        """
        check_settings(values, place, vocabulary)
        reader = _Reader(values)
        samples = bool(values.get("do_sample"))
        followed = set(SEARCHED) if translates else {"do_sample", *SAMPLED, "max_length"}
        followed |= {"max_new_tokens", *IDS, *WITHOUT_EFFECT, *followed_elsewhere}
        without = set() if samples else SAMPLING_ALONE
        others = [
            name
            for name, value in values.items()
            if name not in followed | without and not name.startswith(SPECULATION)
            if value not in (None, [], {}) and value != NEUTRAL.get(name)
        ]
        penalty = reader.value("length_penalty", 1.0)
        words = reader.value("bad_words_ids", [])
        single = [word[0] for word in words if len(word) == 1]
        if len(single) < len(words):
            others.append("bad_words_ids")
        if penalty < 0:
            others.append("length_penalty")
        rules = Rules(
            first=reader.token("forced_bos_token_id"),
            last=reader.token("forced_eos_token_id"),
            no_repeat=reader.count("no_repeat_ngram_size"),
            min_length=max(
                reader.count("min_length"),
                reader.count("min_new_tokens") + 1 if values.get("min_new_tokens") else 0,
            ),
            suppressed=(*single, *reader.tokens("suppress_tokens")),
            suppressed_first=reader.tokens("begin_suppress_tokens"),
            penalty="power",
            stop=STOPS.get(values.get("early_stopping"), "estimate"),
        )
        room = reader.count("max_new_tokens") or max(reader.count("max_length") - 1, 0)
        decoding = DecodingConfig(
            beam=reader.count("num_beams") or 1,
            length_penalty=max(float(penalty), 0.0),
            max_length=min(room or 200, longest or room or 200),
        )
        told = tuple(f"{name}={values[name]!r}" for name in dict.fromkeys(others))
        new, whole = (reader.value(name, None) for name in ("max_new_tokens", "max_length"))
        sampling = reader.sampling(samples)
        return cls(decoding, rules, sampling, new, whole if new is None else None, told)


class _Reader:
    """Values of one file, which ``check_settings`` has seen."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values

    def value(self, name: str, default: Any) -> Any:
        found = self.values.get(name)
        return default if found is None else found

    def count(self, name: str) -> int:
        return self.value(name, 0)

    def tokens(self, name: str) -> tuple[int, ...]:
        found = self.value(name, [])
        return tuple(found) if isinstance(found, list) else (found,)

    def token(self, name: str) -> int | None:
        return next(iter(self.tokens(name)), None)

    def sampling(self, samples: bool) -> Sampling:
        """Return the settings of sampling, except neutral values such as ``top_p=1``.

        Without ``samples`` only the penalty of repetitions counts.
        """
        found: dict[str, Any] = {"temperature": 1.0, "top_k": TOP_K} if samples else {}
        neutral = (("top_k", 0), ("top_p", 1.0), ("repetition_penalty", 1.0))
        for name in SAMPLED if samples else ("repetition_penalty",):
            value = self.value(name, None)
            if (name, value) in neutral:
                found.pop(name, None)
            elif value is not None:
                found[name] = int(value) if name == "top_k" else float(value)
        return Sampling(**found)
