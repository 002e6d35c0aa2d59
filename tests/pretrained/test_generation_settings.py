"""Settings of generation of a folder: what is followed, and what is refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_folders
from tokenizers.processors import TemplateProcessing

import attnzoo
import pretrained_fields
from attnzoo import pretrained
from attnzoo.decoding.sampling import Sampling
from attnzoo.errors import UserError
from attnzoo.models.causal import CausalModel
from attnzoo.training.folder_settings import FolderSettings
from attnzoo.training.generation_settings import NUMBERS, SAMPLING_NUMBERS, TOKENS, check_settings

PLACE = Path("generation_config.json")
SIZE = 28
WRONG = [
    *((name, value) for name in NUMBERS | SAMPLING_NUMBERS for value in ("x", True, [1], np.nan)),
    *((name, -1) for name in NUMBERS | SAMPLING_NUMBERS if name != "length_penalty"),
    *((name, 0) for name in ("num_beams", "max_length", "max_new_tokens", "temperature", "top_p")),
    ("max_length", 1),
    ("top_p", 1.5),
    *((name, value) for name in TOKENS for value in (SIZE, -2, "x", 1.0)),
    *((name, -1) for name in TOKENS if name != "pad_token_id"),  # which has it for none
    *(("do_sample", value) for value in ("false", 0)),
    *((name, [[value]]) for name in TOKENS for value in (SIZE, True)),
    ("bad_words_ids", [3]),
    ("bad_words_ids", [[]]),
    ("early_stopping", [True]),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_out_of_range_is_one_line(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{PLACE}: {name}\b.*wanted") as error:
        check_settings({"do_sample": True, name: value}, PLACE, SIZE)
    assert "\n" not in str(error.value)


def test_settings_in_range_pass() -> None:
    tokens = dict.fromkeys(TOKENS, SIZE - 1) | {"bad_words_ids": [[0], [1, 2]]}
    tokens |= {name: [0, SIZE - 1] for name, depth in TOKENS.items() if depth == 1}
    least = {name: one.least or 2 for name, one in (NUMBERS | SAMPLING_NUMBERS).items()}
    least |= {name: 1.0 for name, one in SAMPLING_NUMBERS.items() if one.above}
    check_settings(tokens | least | {"early_stopping": "never"}, PLACE, SIZE)
    # Without sampling its settings are not read.
    check_settings({"temperature": -1, "top_k": None, "pad_token_id": -1}, PLACE, SIZE)


@pytest.mark.parametrize("kind", ["marian", "gpt2"])
def test_a_folder_is_checked_when_it_is_opened(kind: str, tmp_path: Path) -> None:
    folder = tiny_folders.tiny_folder(kind, tmp_path / kind)
    (folder / PLACE).write_text(json.dumps({"eos_token_id": [2, 99]}))
    with pytest.raises(UserError, match=rf"{PLACE}: eos_token_id has token 99; .* 28 tokens"):
        attnzoo.open(folder)
    (folder / PLACE).write_text(json.dumps({"eos_token_id": 2}))
    settings: Any = FolderSettings(folder, pretrained.load(folder))
    config = settings.config
    for name in [one for one in TOKENS if one.endswith("_token_id")]:  # those of PLACE go first
        settings.config = config | {name: 99}
        with pytest.raises(UserError, match=rf"config.json: {name} has token 99"):
            settings.translator(None, None) if kind == "marian" else settings.language_model()


CAUSAL = [
    kind
    for kind, family in pretrained.FAMILIES.items()
    if isinstance(family.model, type) and issubclass(family.model, CausalModel)
]
OTHER: dict[str, Any] = {
    "do_sample": True, "early_stopping": True, "temperature": 0.5, "top_p": 0.5, "min_p": 0.5,
    "typical_p": 0.5, "bad_words_ids": [[3, 4]], "stop_strings": ["a"], "use_mtp": True,
    "sequence_bias": [[[3], 2.0]], "watermarking_config": {"bias": 2.0}, "max_time": 0.5,
}  # fmt: skip
"""Values of settings that do not take 3."""
SAME_TOKENS = set(
    "use_cache cache_implementation cache_config max_cache_len prefill_chunk_size compile_config "
    "disable_compile continuous_batching_config low_memory output_attentions output_hidden_states "
    "output_scores output_logits return_dict_in_generate transformers_version _from_model_config "
    "pad_token_id decoder_start_token_id bos_token_id is_assistant num_assistant_tokens "
    "num_assistant_tokens_schedule assistant_confidence_threshold assistant_early_exit "
    "assistant_lookbehind assistant_ensemble_weight target_lookbehind prompt_lookup_num_tokens "
    "max_matching_ngram_size speculation_type use_mtp".split()
)
"""Settings of speed, form and other models; an empty prompt alone begins with bos_token_id."""
DRAWS_ALONE = set("temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff".split())


@pytest.mark.parametrize("kind", CAUSAL)
def test_each_setting_of_a_language_model_is_followed_or_named(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All fields of transformers' class, in a folder that is greedy and in one that draws."""
    folder = tiny_folders.tiny_folder(kind, tmp_path / kind)
    (folder / PLACE).write_text("{}")
    settings = FolderSettings(folder, pretrained.load(folder))

    def read(**values: Any) -> tuple[Any, str]:
        caplog.clear()
        settings.generation = {"eos_token_id": 2} | values
        found = settings.language_model()
        names = ("sampling", "max_new_tokens", "max_length", "end_ids")
        return [found[name] for name in names], caplog.text

    for draws in ({}, {"do_sample": True}):
        before, told = read(**draws)
        assert not told
        assert before[0] == (Sampling(temperature=1.0, top_k=50) if draws else Sampling())
        for name in json.loads(pretrained_fields.FILE.read_text())["generation"]:
            value = False if draws and name == "do_sample" else OTHER.get(name, 3)
            after, told = read(**draws | {name: value})
            same = name in SAME_TOKENS or (name in DRAWS_ALONE and not draws)
            assert (after == before and not told) == same, name
            assert same or (f"not followed: {name}=" in told) == (after == before), name


def test_end_tokens_start_and_forced_word_of_a_translator(tmp_path: Path) -> None:
    """An end token that is a word stays in the text, as a forced first word does."""
    folder = tiny_folders.tiny_folder("marian", tmp_path / "marian")
    names = tiny_folders.tokens_of("marian")
    mat, sat = (names.index(f"\u2581{word}") for word in ("mat", "sat"))
    settings = {"eos_token_id": [2, sat], "forced_bos_token_id": mat, "decoder_start_token_id": 0}
    (folder / PLACE).write_text(json.dumps(settings))
    opened = attnzoo.open(folder)
    assert opened.rules.ends == (2, sat)
    translator = opened.translator()
    assert translator.target_frame.before == (0,)
    target = translator.target_tokenizer
    said = [mat, names.index("\u2581cat"), sat]
    assert target.decode(said) == " ".join(target.decode_words(said).words) == "mat cat sat"
    (found,) = translator.translate(["a cat"], beam=1, max_length=4)
    assert found is not None
    assert found.text.startswith("mat")
    assert len(found.weights) - len(found.target.ids) in (0, 1)
    (forced,) = translator.force(["a cat"], ["mat cat"])
    assert forced is not None
    assert len(forced.log_probs) == 3  # both words and the end


@pytest.mark.parametrize("described", [{}, {"translation_en_to_de": {"prefix": "a cat "}}])
def test_languages_that_a_t5_does_not_name_are_told(
    described: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_folders.tiny_folder("t5", tmp_path / "t5", task_specific_params=described)
    for known in (False, *[True] * bool(described)):
        caplog.clear()
        pair = ("en", "de") if known else ("English", "Klingon")
        attnzoo.open(folder, source_language=pair[0], target_language=pair[1])
        told = [one.getMessage() for one in caplog.records]
        assert told if not known else not told
        assert known or "from English to Klingon" in told[0]
        assert known or all(key in told[0] for key in described)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("prefix", ["a cat: ", "the  ", "", "cat-"])
def test_the_prefix_of_a_t5_is_read_with_its_text(
    prefix: str, ended: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also by a tokenizer that puts no end token behind a text."""
    described = {"translation_en_to_de": {"prefix": prefix}}
    folder = tiny_folders.tiny_folder("t5", tmp_path / "t5", task_specific_params=described)
    library = pretrained.tokenizer(folder)
    if not ended:
        library.post_processor = TemplateProcessing(single="$A", special_tokens=[])
        library.save(str(folder / "tokenizer.json"))
    translator = attnzoo.open(folder, source_language="en", target_language="de").translator()
    one = translator.source_tokenizer.encode("the mat sat .")
    ours = translator.source_frame.around(one.ids)
    apart = prefix == "cat-"
    assert (ours == library.encode(f"{prefix}the mat sat .").ids) is not apart
    assert ("'cat-' ends within a word" in caplog.text) is apart


def test_a_text_goes_on_behind_what_is_no_end_here(tmp_path: Path) -> None:
    folder = tiny_folders.tiny_folder("bart", tmp_path / "bart")
    (folder / PLACE).write_text(json.dumps({"eos_token_id": 9}))
    translator = attnzoo.open(folder).translator()
    assert translator.rules.ends == (9,)
    assert translator.target_tokenizer.decode([7, 2, 10]) == "on dog"
