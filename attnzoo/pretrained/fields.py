"""Fields of a config.json: followed, without effect on the result, or refused.

Every field of a transformers config class is in one of the three groups of its family, and a field
in none of them is an error (``tests/pretrained/test_fields.py`` holds the groups to the classes).
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attnzoo.errors import UserError

REQUIRED: Any = object()
"""Default of a field that a file must have."""


@dataclasses.dataclass(frozen=True)
class Field:
    """Values that a followed field takes.

    Attributes:
      wanted: the values in words, for messages.
      fits: function that returns whether a value, not null, is one of them.
      default: value where the file has none: that of transformers' class.
      null: null is a value too, with a meaning of its own; always true if it is the default.
      plain: function from a value to the type that readers expect.
    """

    wanted: str
    fits: Callable[[Any], bool]
    default: Any = REQUIRED
    null: bool = False
    plain: Callable[[Any], Any] = lambda value: value


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e30 and low <= value < high  # NaN is below nothing


def _is_count(value: Any, low: int, high: int = 2**31 - 1) -> bool:
    return type(value) is int and low <= value <= high


def _is_tokens(value: Any) -> bool:
    listed = value if isinstance(value, list) else [] if value is None else [value]
    return all(type(one) is int for one in listed)


def _is_labels(value: Any) -> bool:
    named = isinstance(value, dict) and all(isinstance(name, str) for name in value.values())
    return named and len(value) > 0 and set(value) == set(map(str, range(len(value))))


def _is_name_alone(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


def _side(value: Any) -> Any:
    pair = isinstance(value, list) and len(value) == 2 and value[0] == value[1]
    return value[0] if pair else value


size = partial(Field, "a whole number above 0", partial(_is_count, low=1))
depth = partial(Field, "a whole number from 1 to 10000", partial(_is_count, low=1, high=10_000))
token = partial(Field, "a token id, a whole number from 0", partial(_is_count, low=0))
count = partial(Field, "a whole number from 0", partial(_is_count, low=0))
side = partial(
    Field,
    "a whole number above 0, or a pair of equal ones",
    lambda value: _is_count(_side(value), 1),
    plain=_side,
)
rate = partial(
    Field, "a number from 0 to below 1", partial(_is_number, low=0.0, high=1.0), plain=float
)
amount = partial(Field, "a number from 0", partial(_is_number, low=0.0), plain=float)
positive = partial(Field, "a number above 0", partial(_is_number, low=5e-324), plain=float)
flag = partial(Field, "true or false", lambda value: isinstance(value, bool))
word = partial(Field, "a string", lambda value: isinstance(value, str))
words = partial(
    Field,
    "a list of strings",
    lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
)
mapping = partial(Field, "an object", lambda value: isinstance(value, dict))
labels = partial(Field, 'names by number, {"0": ..., "1": ...}', _is_labels)
architecture = partial(Field, "a list of one name", _is_name_alone)


@dataclasses.dataclass(frozen=True)
class Fields:
    """Fields of the config.json of one family.

    Attributes:
      followed: fields that the reader follows.
      without_effect: fields that change no output of the model, with the reason.
      refused: fields of which only these values are supported.
      aliases: second names of followed fields.
      parts: fields of followed objects, such as ``text_config``, and their kinds in transformers.
    """

    followed: Mapping[str, Field]
    without_effect: Mapping[str, str] = dataclasses.field(default_factory=dict)
    refused: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, tuple[str, "Fields"]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_model(
        cls,
        followed: Mapping[str, Field],
        without_effect: Mapping[str, str],
        refused: Mapping[str, Sequence[Any]],
        aliases: Mapping[str, str] | None = None,
        parts: Mapping[str, tuple[str, "Fields"]] | None = None,
    ) -> "Fields":
        """Return the fields of a model, with the common ones of all models.

        ``without_effect`` maps reasons to names, separated by spaces.
        """
        refused = {"pruned_heads": ({},), "tie_encoder_decoder": (False,), **refused}
        unused = {
            name: reason
            for reason, names in (*COMMON.items(), *without_effect.items())
            for name in names.split()
            if name not in followed and name not in refused
        }
        return cls(followed, unused, refused, aliases or {}, parts or {})


COMMON = {
    "record of the program that wrote the file": (
        "transformers_version _name_or_path name_or_path _commit_hash unsloth_fixed "
        "unsloth_version transformers.js_config"
    ),
    "form of transformers' output, or speed": (
        "output_hidden_states output_attentions output_past return_dict torchscript use_cache "
        "chunk_size_feed_forward attn_implementation _attn_implementation "
        "_attn_implementation_autoset gradient_checkpointing use_bfloat16"
    ),
    "tensors are read in the dtype in which they are stored": "dtype torch_dtype",
    "training alone, or values before it": ("initializer_range classifier_dropout tf_legacy_loss"),
    "answers of predict: softmax, sigmoids or numbers; saved again": "problem_type",
    "no classes, or their names alone": "id2label label2id num_labels _num_labels",
    "ids that tokenizers and generation read; saved again": (
        "bos_token_id eos_token_id eos_token_ids pad_token_id sep_token_id decoder_start_token_id"
    ),
    "settings of generation, not of the model; saved again": (
        "assistant_confidence_threshold assistant_lookbehind bad_words_ids "
        "begin_suppress_tokens diversity_penalty do_sample early_stopping "
        "encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff "
        "exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id "
        "length_penalty max_length max_new_tokens min_length no_repeat_ngram_size "
        "num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams "
        "num_return_sequences output_scores remove_invalid_values repetition_penalty "
        "return_dict_in_generate suppress_tokens target_lookbehind temperature top_k top_p "
        "typical_p"
    ),
    "notes for pipelines and tokenizers": (
        "finetuning_task prefix task_specific_params tokenizer_class model_max_length "
        "max_sequence_length sbert_ce_default_activation_function sentence_transformers"
    ),
    "code beside the weights is never run": "auto_map",
}
"""Names without effect in every family, by the reason."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of a config.json, checked against the fields of its family.

    Attributes:
      place: file, for messages.
      tensors: names of the tensors beside it.
    """

    values: Mapping[str, Any]
    place: Path | str
    fields: Fields
    tensors: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            self._check(name, value)
        if "vocab_size" not in self.fields.followed:
            return
        for name, field in self.fields.followed.items():
            last = self["vocab_size"] - 1
            if field.wanted == token().wanted and (self.values.get(name) or 0) > last:
                raise self.error(name, f"a token id, at most {last} (vocab_size={last + 1})")

    def __getitem__(self, key: str) -> Any:
        """Return the value of a followed field, or its default if the file lacks it."""
        field = self.fields.followed[key]
        other = next((name for name, same in self.fields.aliases.items() if same == key), key)
        value = self.values.get(key, self.values.get(other, field.default))
        if value is REQUIRED:
            raise UserError(f"{self.place}: no {key}; wanted {field.wanted}")
        return None if value is None else field.plain(value)

    def choose(self, key: str, meanings: Mapping[Any, Any]) -> Any:
        """Return the attnzoo meaning of a followed field.

        Raises:
          UserError: the value is not in ``meanings``.
        """
        if self[key] not in meanings:
            raise self.error(key, " or ".join(map(str, meanings)))
        return meanings[self[key]]

    def architecture(self, meanings: Sequence[str]) -> str:
        """Return the name in ``architectures``, or the first of the supported ones."""
        names = self["architectures"] or meanings[:1]
        if names[0] not in meanings:
            raise self.error("architectures", " or ".join(meanings))
        return names[0]

    def divide(self, key: str, by: str) -> None:
        """Raise a UserError unless one followed field is a multiple of another."""
        if self[key] % self[by]:
            raise self.error(key, f"a multiple of {by}={self[by]}")

    def error(self, key: str, wanted: str) -> UserError:
        """Return the error that a field's value is not supported."""
        value = self.values[key] if key in self.values else self[key]
        return UserError(f"{self.place}: {key}={_short(value)} is not supported; wanted {wanted}")

    def within(self, key: str, fields: Fields | None = None) -> "Settings":
        """Return the settings in an object of this file; ``fields`` are those of the part."""
        fields = self.fields.parts[key][1] if fields is None else fields
        return Settings(self[key] or {}, f"{self.place}: {key}", fields, self.tensors)

    def num_classes(self) -> int:
        """Return the number of classes, which ``id2label`` and ``num_labels`` say."""
        names, count = self["id2label"], self["num_labels"]
        if names is not None and count not in (None, len(names)):
            raise self.error("num_labels", f"{len(names)}, the number of names in id2label")
        return (2 if count is None else count) if names is None else len(names)

    def _check(self, name: str, value: Any) -> None:
        fields = self.fields
        same = fields.aliases.get(name, name)
        if field := fields.followed.get(same):
            null = field.null or field.default is None
            if not (null if value is None else field.fits(value)):
                raise self.error(name, field.wanted + (" or null" if null else ""))
        elif name in fields.refused:
            if not any(_same(value, one) for one in fields.refused[name]):
                raise self.error(name, " or ".join(map(json.dumps, fields.refused[name])))
        elif name not in fields.without_effect and value is not None:
            raise UserError(
                f"{self.place}: {name}={_short(value)} is not known; if the model does not depend "
                "on it, remove it from the file"
            )
        elif name.endswith("_token_id") and not _is_tokens(value):
            raise self.error(name, "a token id, or a list of them")
        if (other := self.values.get(same, value)) is not value and other != value:
            raise self.error(name, f"{_short(other)}, the value of {same}")


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
