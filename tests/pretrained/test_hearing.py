"""Prompt, window and heads of a Whisper's folder: what is followed, and what is one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnzoo.config.speech import SoundWhisperConfig
from attnzoo.config.transformer import TransformerConfig
from attnzoo.errors import UserError
from attnzoo.training.hearing import Prompt, check_preparation

PLACE, SIZE = Path("generation_config.json"), 23
SETTINGS: dict[str, Any] = {
    "lang_to_id": {"<|en|>": 17, "<|fr|>": 18},
    "task_to_id": {"transcribe": 19, "translate": 20},
    "no_timestamps_token_id": 22,
}


def rules(language: str | None = None, task: str | None = None, **values: Any) -> Any:
    found = Prompt(SETTINGS | values, PLACE, SIZE).rules(language, task)
    return found.languages, found.prompt


def test_prompts_are_those_of_transformers() -> None:
    """The order in which its generate puts them together."""
    both = (17, 18)
    assert rules() == (both, (22,))
    assert rules(task="translate") == (both, (20, 22))
    assert rules(language="fr") == ((), (18, 19, 22))
    assert rules(language="french", task="translate") == ((), (18, 20, 22))
    assert rules(language="<|en|>") == ((), (17, 19, 22))
    assert rules(forced_decoder_ids=[[1, None], [2, 19]]) == (both, (19, 22))
    assert rules(forced_decoder_ids=[[1, 18], [2, 20], [3, 22]]) == ((), (18, 20, 22))
    assert rules(forced_decoder_ids=[[1, 18]], task="transcribe") == (both, (19, 22))
    assert rules(no_timestamps_token_id=None) == (both, ())
    assert rules(lang_to_id={}, task_to_id={}) == ((), (22,))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"language": "xx"}, "language 'xx' is not known; wanted one of en, fr"),
        ({"language": 7}, "language=7; wanted a string"),
        ({"task": "sing"}, "task='sing' is not known; wanted transcribe or translate"),
        ({"language": "fr", "is_multilingual": False}, "a model of English alone"),
        ({"lang_to_id": [3]}, "lang_to_id=.3.; wanted token ids by name"),
        ({"lang_to_id": {"<|en|>": 99}}, "lang_to_id has token 99; wanted one of the model's 23"),
        ({"no_timestamps_token_id": "x"}, "no_timestamps_token_id has token 'x'; wanted"),
        ({"forced_decoder_ids": [[2, 19]]}, "forced_decoder_ids=.*; wanted"),
        ({"forced_decoder_ids": 5}, "forced_decoder_ids=5; wanted"),
    ],
)
def test_a_setting_of_another_form_is_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"^{PLACE}: {said}") as error:
        Prompt(SETTINGS | values, PLACE, SIZE).rules(None, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pairs", [[], 3, [[0]], [[2, 0]], [[0, 4]], [[0, True]], [[0.0, 1]]])
def test_heads_that_are_not_there_are_refused(pairs: Any) -> None:
    with pytest.raises(UserError, match=r"alignment_heads has .*wanted \[layer, head\]"):
        Prompt({"alignment_heads": pairs}, PLACE, SIZE).heads(2, 4)
    assert Prompt({"alignment_heads": [[1, 3]]}, PLACE, SIZE).heads(2, 4) == ((1, 3),)
    assert Prompt({}, PLACE, SIZE).heads(2, 4) is None


@pytest.mark.parametrize("width", [0, 4, -1, 1.0, True, None, "7", np.inf])
def test_the_width_of_the_median_is_odd(width: Any) -> None:
    with pytest.raises(UserError, match=r"median_filter_width=.*wanted an odd whole number"):
        Prompt({}, PLACE, SIZE).width(width)


@pytest.mark.parametrize(
    "values",
    [{"sampling_rate": 8_000}, {"hop_length": 128}, {"n_fft": 512}, {"dither": 0.1},
     {"feature_size": 7}, {"chunk_length": 2}, {"do_normalize": True}, {"padding_side": "left"}],
)  # fmt: skip
def test_other_frames_than_the_models_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    """Those of preprocessor_config.json, and of transformers 5's processor_config.json."""
    model = TransformerConfig(source=SoundWhisperConfig(mels=80, length=1500), tied="target")
    check_preparation(tmp_path, model)  # without a file: those of transformers
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"feature_size": 80, "n_samples": 480_000, "chunk_length": 30}))
    check_preparation(tmp_path, model)
    path.write_text(json.dumps(values))
    (name,) = values
    with pytest.raises(UserError, match=rf"preprocessor_config.json: {name}=.* wanted"):
        check_preparation(tmp_path, model)
    processor = tmp_path / "processor_config.json"
    processor.write_text(json.dumps({"feature_extractor": {"n_fft": 400}}))
    check_preparation(tmp_path, model)
    processor.write_text(json.dumps({"feature_extractor": values}))
    said = rf"processor_config.json: feature_extractor: {name}=.* wanted"
    with pytest.raises(UserError, match=said):
        check_preparation(tmp_path, model)
