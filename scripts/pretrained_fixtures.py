"""`pretrained_fixtures.py [NAME ...]`: write tiny models of transformers, and what they compute.

The tests compare attnzoo with them where neither torch nor transformers is installed. Every model
has unusual settings and random weights, norms and biases; its batch has rows without padding, with
padding on the left and on the right, and, where the model takes them, position ids that skip. This
needs torch and transformers and writes tests/pretrained/fixtures/NAME: config.json,
model.safetensors, and expected.npz with

- the inputs, and the version of transformers;
- `logits`, or the output of a model without a head;
- `states/I`: the input of each block, encoder first; `maps/NAME`: the weights of each attention;
- `greedy` and `beams`: generated tokens, padded with -1 (of a model that generates);
- of a language model: `defaults`, tokens with the generation_config.json FOLLOWED, and `scores`,
  from which the first token is drawn with DRAWN;
- of a model that hears: `features`, its log-mel frames, and `times` of the greedy tokens in
  seconds.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from attnzoo.files import read_json
from attnzoo.pretrained.files import write_json
from pretrained_models import END, FIXTURES, FORMER, GENERATION, LONG, VOCAB

HOME = Path(__file__).parents[1] / "tests" / "pretrained" / "fixtures"
ROWS, LENGTH, NEW, BEAMS = 6, 7, 9, 3
FOLLOWED = {"repetition_penalty": 3.0, "max_length": LENGTH + 5, "top_k": 2, "eos_token_id": END}
DRAWN = {
    "do_sample": True,
    "temperature": 2.5,
    "top_k": 12,
    "top_p": 0.95,
    "min_p": 0.02,
    "repetition_penalty": 1.4,
    "eos_token_id": END,
}
SAMPLES = (16_000, 9_000, 4_567)
"""Lengths of the sounds, at 16 kHz."""


def inputs(config: Any) -> dict[str, np.ndarray]:
    """Return the inputs of a model with this config, by attnzoo's names.

    Images ``B h w C``; sounds ``B L``, NaN after their ends, and target; source and target, a
    source padded on the right; or tokens, valid and positions ``B T``. RoBERTa counts positions
    itself. BERT and ALBERT have segments too.
    """
    random = np.random.default_rng(0)
    if hasattr(config, "num_mel_bins"):
        sounds = np.full((len(SAMPLES), max(SAMPLES)), np.nan, np.float32)
        for sound, size in zip(sounds, SAMPLES, strict=True):
            wave = np.sin(np.arange(size) ** 1.3 / random.uniform(7, 20))
            sound[:size] = np.round(40 * wave + random.normal(0, 9, size)) / 128
        target = random.integers(6, VOCAB - 4, (len(SAMPLES), LENGTH - 2)).astype(np.int32)
        target[:, 0] = config.decoder_start_token_id
        return {"source": sounds, "target": target}
    towers = hasattr(config, "vision_config")
    found: dict[str, np.ndarray] = {}
    if towers or hasattr(config, "image_size"):
        seen = config.vision_config if towers else config
        size = (3, seen.image_size, seen.image_size, seen.num_channels)
        found["images"] = random.standard_normal(size).astype(np.float32)
    if found and not towers:
        return found
    config = config.text_config if towers else config
    pad = np.int32(config.pad_token_id)
    valid = np.ones((ROWS, LENGTH), bool)
    valid[3, 2:] = valid[4, 6:] = False
    tokens = random.integers(6, VOCAB - 4, valid.shape).astype(np.int32)
    if config.is_encoder_decoder:
        target = random.integers(6, VOCAB - 4, (ROWS, LENGTH - 2)).astype(np.int32)
        target[:, 0] = config.decoder_start_token_id
        return {"source": np.where(valid, tokens, pad), "target": target}
    valid[1, :3] = valid[2, :5] = False
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    positions[5] = [1, 2, 5, 6, 11, 12, 18]
    if towers:  # each text has an end, and a text of one of them another one behind
        tokens[np.arange(ROWS), LENGTH - 1 - np.argmax(valid[:, ::-1], axis=1)] = END
        tokens[0, 2] = END
    found |= {"tokens": np.where(valid, tokens, pad), "valid": valid}
    if "roberta" not in config.model_type:
        found["positions"] = positions.astype(np.int32)
    if config.model_type in ("bert", "albert"):
        found["segments"] = random.integers(0, 3, valid.shape).astype(np.int32)
    return found


def draw(model: Any) -> None:
    """Fill all parameters of a model with random numbers, norms around 1."""
    import torch

    random = np.random.default_rng(1)
    drawn = dict(model.named_parameters())
    drawn |= {k: p for k, p in model.named_buffers() if k == "final_logits_bias"}
    with torch.no_grad():
        for path, parameter in drawn.items():
            if "embed_positions" in path and model.config.model_type == "marian":
                continue  # sines and cosines
            is_norm = parameter.ndim == 1 and ("norm" in path.lower() or ".ln_" in path)
            centre = 1.0 if is_norm and path.endswith("weight") else 0.0
            values = np.asarray(random.normal(centre, 0.4, tuple(parameter.shape)), np.float32)
            parameter.copy_(torch.from_numpy(values))


NAMES = {
    "images": "pixel_values",
    "tokens": "input_ids",
    "valid": "attention_mask",
    "positions": "position_ids",
    "segments": "token_type_ids",
    "source": "input_ids",
    "target": "decoder_input_ids",
}


def expected(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a model of transformers, and the arrays of its ``expected.npz``."""
    import torch
    import transformers

    architecture, settings = FIXTURES[name]
    cls = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = cls(cls.config_class(**settings, attn_implementation="eager")).eval()
    if name == "t5-dense-act-fn":  # version 1.1 has an output layer of its own
        model.lm_head.weight = torch.nn.Parameter(model.shared.weight.clone())
    draw(model)
    given = inputs(model.config)
    if name in GENERATION:
        said, mask = _heard(model, given)
        given["features"] = said["input_features"].numpy().transpose(0, 2, 1)
        said["decoder_input_ids"] = torch.from_numpy(given["target"]).long()
    else:
        said = {
            NAMES[name]: torch.from_numpy(array.transpose(0, 3, 1, 2).copy())
            if name == "images"
            else torch.from_numpy(array).long()
            for name, array in given.items()
        }
    if "source" in given and name not in GENERATION:
        said["attention_mask"] = (said["input_ids"] != model.config.pad_token_id).long()
    with torch.no_grad():
        out = model(**said, output_hidden_states=True, output_attentions=True)
        found = given | _outputs(out, "images" in given)
        if name in GENERATION:
            found |= _transcribed(model, said["input_features"], mask, GENERATION[name])
            found |= _segments(model, long_sound(given["source"]), GENERATION[name])
        else:
            found |= _generated(model, given, said)
    return model, found | {"version": np.array(transformers.__version__)}


def _outputs(out: Any, images: bool) -> dict[str, np.ndarray]:
    """Return the logits, the inputs of all blocks, and the weights of all attentions.

    Of two encoders also the features, of norm 1.
    """
    if "logits_per_image" in out:
        found = {"logits": out.logits_per_image.numpy()}
        states, maps = [], {}
        for side, tower in (("image", out.vision_model_output), ("text", out.text_model_output)):
            states += tower.hidden_states[:-1]
            maps |= {f"{side}/encoder/{i}/self": m for i, m in enumerate(tower.attentions)}
            found[f"features/{side}"] = out[f"{side}_embeds"].numpy()
        return _named(found, states, maps)
    headless = "pooler_output" if images else "last_hidden_state"
    logits = next(out[name] for name in ("prediction_logits", "logits", headless) if name in out)
    found = {"logits": logits.numpy()}
    states, maps = [], {}
    if "encoder_hidden_states" in out:
        for side in ("encoder", "decoder"):
            states += out[f"{side}_hidden_states"][:-1]
            maps |= {f"{side}/{i}/self": m for i, m in enumerate(out[f"{side}_attentions"])}
        maps |= {f"decoder/{i}/cross": m for i, m in enumerate(out.cross_attentions)}
    else:
        states = out.hidden_states[:-1]
        side = "decoder" if "past_key_values" in out else "encoder"
        maps = {f"{side}/{i}/self": m for i, m in enumerate(out.attentions)}
    return _named(found, states, maps)


def _named(found: Any, states: Any, maps: Any) -> dict[str, np.ndarray]:
    found |= {f"states/{i}": state.numpy() for i, state in enumerate(states)}
    return found | {f"maps/{name}": m.numpy() for name, m in maps.items()}


def _generated(model: Any, given: dict[str, Any], said: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the tokens of greedy search, and for translators of beam search without a penalty.

    Prompts of a decoder are those without padding on the right.
    """
    translates = "source" in given
    if not translates and not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return {}
    rows = slice(None) if translates else [0, 1, 2]
    prompt = {k: said[k][rows] for k in ("input_ids", "attention_mask")}
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW, "use_cache": False}
    settings |= {"forced_eos_token_id": None, "forced_bos_token_id": None}
    start = 1 if translates else LENGTH
    found = {"greedy": model.generate(**prompt, **settings)[:, start:]}
    if translates:
        settings |= {"num_beams": BEAMS, "length_penalty": 0.0, "early_stopping": False}
        found["beams"] = model.generate(**prompt, **settings)[:, start:]
        scores = {}
    else:
        found["defaults"] = _by_file(model, FOLLOWED, prompt)[:, start:]
        form: dict[str, Any] = {"max_new_tokens": 1, "output_scores": True}
        drawn = _by_file(model, DRAWN, prompt | form | {"return_dict_in_generate": True})
        scores = {"scores": drawn.scores[0].numpy()}
    pad = model.config.pad_token_id
    return scores | {key: _padded(tokens.numpy(), pad) for key, tokens in found.items()}


def _by_file(model: Any, settings: dict[str, Any], given: dict[str, Any]) -> Any:
    """Return what a model generates with these settings for its generation_config.json."""
    from transformers import GenerationConfig

    before, pad = model.generation_config, model.config.pad_token_id
    model.generation_config = GenerationConfig(**settings, pad_token_id=pad)
    found = model.generate(**given, use_cache=False)
    model.generation_config = before
    return found


def _heard(model: Any, given: dict[str, np.ndarray]) -> tuple[dict[str, Any], Any]:
    """Return the log-mel frames of sounds, and which of them are no padding."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins, chunk_length=1)
    sounds = [sound[~np.isnan(sound)] for sound in given["source"]]
    form: dict[str, Any] = {"return_tensors": "pt", "return_attention_mask": True}
    found = extractor(sounds, sampling_rate=16_000, **form)
    return {"input_features": found.input_features}, found.attention_mask


def _transcribed(
    model: Any, features: Any, mask: Any, settings: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return the tokens of greedy search with their times, and those of beam search."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(**settings)
    said: dict[str, Any] = {"input_features": features, "attention_mask": mask}
    greedy = model.generate(**said, return_token_timestamps=True)
    beams = model.generate(**said, num_beams=BEAMS, length_penalty=0.0)
    pad = model.config.pad_token_id
    found = {"greedy": greedy["sequences"], "beams": beams}
    times = greedy["token_timestamps"].numpy().astype(np.float32)
    rows = {key: _padded(x.numpy(), pad, may_lack_end=True) for key, x in found.items()}
    return rows | {"times": times}


def long_sound(sounds: np.ndarray) -> np.ndarray:
    """Return all sounds one after the other."""
    return np.concatenate([sound[~np.isnan(sound)] for sound in sounds])


def _segments(model: Any, sound: np.ndarray, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the segments of a sound of several windows: tokens padded with -1, starts and ends.

    A window of silence follows the sound, so that no window is padded with frames of 0.
    """
    import torch
    from transformers import GenerationConfig, WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins, chunk_length=1)
    whole = np.concatenate([sound, np.zeros(16_000, np.float32)])
    form: dict[str, Any] = {"return_tensors": "pt", "truncation": False, "padding": "longest"}
    frames = extractor(whole, sampling_rate=16_000, **form).input_features
    kept = {key: settings[key] for key in ("language", "task") if key in settings}
    before, model.generation_config = model.generation_config, GenerationConfig(**LONG | kept)
    with torch.no_grad():
        out = model.generate(input_features=frames, return_timestamps=True, return_segments=True)
    found, model.generation_config = out["segments"][0], before
    tokens = [one["tokens"].tolist() for one in found]
    width = max(map(len, tokens))
    return {
        "long_tokens": np.asarray([[*x, *[-1] * (width - len(x))] for x in tokens], np.int32),
        "long_times": np.asarray([[one["start"], one["end"]] for one in found], np.float32),
    }


def _padded(tokens: np.ndarray, pad: int, *, may_lack_end: bool = False) -> np.ndarray:
    """Return the tokens ``B NEW`` with -1 after the end token of each row, or at its first padding.

    Padding is a token like others unless ``may_lack_end``: transformers leaves out the end token of
    a transcript.
    """
    whole = np.pad(tokens, ((0, 0), (0, NEW - tokens.shape[1])), constant_values=pad)
    ends = (whole == END) | ((whole == pad) & may_lack_end)
    after = np.cumsum(ends, axis=1) - (whole == END) > 0
    return np.where(after, -1, whole).astype(np.int32)


def main() -> int:
    """Write all fixtures, or those that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(FIXTURES))
    for name in parser.parse_args().names:
        model, arrays = expected(name)
        model.save_pretrained(HOME / name)
        file = HOME / name / "config.json"
        config, settings = read_json(file), FIXTURES[name][1]
        for former, field in FORMER.items():
            if former in settings:
                config.pop(field, None)
                config[former] = settings[former]
        write_json(file, config)
        if name not in GENERATION:
            (HOME / name / "generation_config.json").unlink(missing_ok=True)
        np.savez_compressed(HOME / name / "expected.npz", allow_pickle=False, **arrays)
        print(f"{HOME / name}: {sum(f.stat().st_size for f in (HOME / name).iterdir()):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
