"""Settings of generation in a folder of transformers: followed ones, and others by name."""

import dataclasses
from collections.abc import Mapping
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
}
"""Values with which a setting changes nothing."""
WITHOUT_EFFECT = (
    "transformers_version _from_model_config use_cache cache_implementation cache_config "
    "output_attentions output_hidden_states output_scores output_logits return_dict_in_generate "
    "disable_compile compile_config is_assistant max_matching_ngram_size _commit_hash"
).split()
SPECULATION = ("assistant_", "num_assistant_", "target_lookbehind")
"""Beginnings of settings of speculative decoding, which changes no output."""
STOPS: dict[Any, Any] = {True: "full", "never": "bound"}


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Settings of a folder, in attnzoo's terms.

    Attributes:
      decoding: beams, length penalty and longest output of a translator.
      rules: forced and forbidden tokens of a translator.
      sampling: settings of a language model; greedy unless the folder samples.
      not_followed: "name=value" of the settings that neither of them has.
    """

    decoding: DecodingConfig
    rules: Rules
    sampling: Sampling | None
    not_followed: tuple[str, ...]

    @classmethod
    def read(
        cls, values: Mapping[str, Any], place: Path, *, translates: bool, longest: int | None
    ) -> "GenerationSettings":
        """Read the settings of a generation_config.json, or those of an older config.json.

        ``longest`` is the number of target positions, None for any.

        Raises:
          UserError: a value of another type than the setting has.
        """
        reader = _Reader(values, place)
        samples = bool(values.get("do_sample"))
        followed = set(SEARCHED) if translates else {"do_sample", *SAMPLED, "max_length"}
        followed |= {"max_new_tokens", *IDS, *WITHOUT_EFFECT}
        without = set() if samples else {"temperature", "top_k", "top_p", "min_p"}
        others = [
            name
            for name, value in values.items()
            if name not in followed | without and not name.startswith(SPECULATION)
            if value is not None and value != NEUTRAL.get(name)
        ]
        penalty = reader.number("length_penalty", 1.0)
        words = reader.value("bad_words_ids", list, [])
        single = [word[0] for word in words if isinstance(word, list) and len(word) == 1]
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
            suppressed=(*single, *reader.value("suppress_tokens", list, [])),
            suppressed_first=tuple(reader.value("begin_suppress_tokens", list, [])),
            penalty="power",
            stop=STOPS.get(values.get("early_stopping"), "estimate"),
        )
        room = reader.count("max_new_tokens") or max(reader.count("max_length") - 1, 0)
        decoding = DecodingConfig(
            beam=reader.count("num_beams") or 1,
            length_penalty=max(penalty, 0.0),
            max_length=min(room or 200, longest or room or 200),
        )
        told = tuple(f"{name}={values[name]!r}" for name in dict.fromkeys(others))
        return cls(decoding, rules, reader.sampling() if samples else None, told)


class _Reader:
    """Values of one file, checked when they are read."""

    def __init__(self, values: Mapping[str, Any], place: Path):
        self.values, self.place = values, place

    def value(self, name: str, wanted: type | tuple[type, ...], default: Any) -> Any:
        found = self.values.get(name)
        if found is None:
            return default
        if not isinstance(found, wanted) or (isinstance(found, bool) and wanted is not bool):
            kinds = wanted if isinstance(wanted, tuple) else (wanted,)
            raise UserError(
                f"{self.place}: {name}={found!r}; wanted "
                f"{' or '.join(kind.__name__ for kind in kinds)}"
            )
        return found

    def number(self, name: str, default: Any) -> Any:
        return self.value(name, (int, float), default)

    def count(self, name: str) -> int:
        return self.value(name, int, 0)

    def token(self, name: str) -> int | None:
        found = self.value(name, (int, list), None)
        return found[0] if isinstance(found, list) and found else found

    def sampling(self) -> Sampling:
        """Return the settings of sampling, except neutral values such as ``top_p=1``."""
        found: dict[str, Any] = {"temperature": 1.0}
        for name in SAMPLED:
            value = self.number(name, None)
            if value is not None and (name, value) not in (("top_k", 0), ("top_p", 1.0)):
                found[name] = int(value) if name == "top_k" else float(value)
        return Sampling(**found)
