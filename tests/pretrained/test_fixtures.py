"""What transformers computes beside ours, without torch (``scripts/pretrained_fixtures.py``)."""

import functools
import importlib.util
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_folders
from flax import nnx
from safetensors.numpy import load_file

import attnzoo
import pretrained_fixtures
from attnzoo import pretrained
from attnzoo.alignment.monotonic import token_starts
from attnzoo.cli.generate import _room, parse, sampling_of
from attnzoo.decoding import TokenIds, beam_search, greedy_search
from attnzoo.decoding.generate import generate
from attnzoo.files import read_json
from attnzoo.layers.block import Block
from attnzoo.ops.choice import implemented_by
from attnzoo.pretrained import rotary
from attnzoo.pretrained.files import write_json
from attnzoo.tasks.prediction import PredictSettings
from attnzoo.tasks.text_generator import ids_of
from attnzoo.tasks.transcription import transcribe
from pretrained_fixtures import BEAMS, HOME, LENGTH, NEW
from pretrained_models import END, FIXTURES, GENERATION, LONG, VOCAB

NAMES = list(FIXTURES)
INSTALLED = importlib.util.find_spec("transformers") is not None
ALL = pytest.param("all", marks=pytest.mark.skip("transformers is not installed"))
FAMILY = {name: read_json(HOME / name / "config.json")["model_type"] for name in NAMES}
SAID = {
    name: len(np.unique(found["greedy"]))
    for name in NAMES
    if "greedy" in (found := np.load(HOME / name / "expected.npz"))
}
GENERATE = list({FAMILY[name]: name for name in sorted(SAID, key=lambda name: SAID[name])}.values())
"""The fixture of each family that says the most different tokens."""
COMPARED = ("logits", "states/", "maps/", "features/")
"""How the names of what is computed begin; `features` alone are what a model hears."""
FAST: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""So small a model takes longer to be compiled well than to run."""


def stored(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(HOME / name / "expected.npz"))


def close(found: Any, wanted: np.ndarray, what: str) -> None:
    """To 1e-5 of the largest."""
    found = np.asarray(found)
    largest = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * largest, err_msg=what)


def compare(found: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Logits, states and maps at real tokens; nobody reads what padding says."""
    valid = arrays.get("source_valid", arrays.get("valid"))
    for name in arrays:
        if not name.startswith(COMPARED):
            continue
        both = (np.asarray(found[name]), arrays[name])
        own, wanted = (np.moveaxis(x, 1, 2) if name.startswith("maps/") else x for x in both)
        # Targets, images and classes have no padding.
        if valid is not None and wanted.shape[:2] == valid.shape and wanted.ndim > 2:
            own, wanted = own[valid], wanted[valid]
        close(own, wanted, name)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def run(graph: Any, state: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Logits, the inputs of all blocks and all maps, as one program."""
    states, block, plain = [], Block.__call__, Block.__call__

    def recorded(self: Any, x: Any, **more: Any) -> Any:
        states.append(x)
        return plain(self, x, **more)

    Block.__call__ = recorded
    try:
        names = ("images", "tokens", "source", "target")
        given = [inputs[name] for name in names if name in inputs]
        more = {k: v for k, v in inputs.items() if k not in names}
        model: Any = nnx.merge(graph, state)
        logits, maps = model(*given, **more, capture=True)
    finally:
        Block.__call__ = block
    found = {f"states/{i}": x for i, x in enumerate(states)}
    if {"images", "tokens"} <= set(inputs):
        found["features/image"] = model.image_features(inputs["images"])
        found["features/text"] = model.text_features(inputs["tokens"], **more)
    return found | {f"maps/{name}": m for name, m in maps.items()} | {"logits": logits}


INPUTS = ("images", "tokens", "valid", "positions", "segments", "source", "target")


@pytest.mark.parametrize("name", NAMES)
def test_logits_states_and_maps_are_those_of_transformers(name: str) -> None:
    arrays, model = stored(name), pretrained.load(HOME / name)
    inputs = {key: arrays[key] for key in INPUTS if key in arrays}
    if "source" in arrays and name not in GENERATION:
        arrays["source_valid"] = arrays["source"] != model.config.pad_id
    found = run(*nnx.split(model), inputs)
    assert set(found) == {k for k in arrays if k.startswith(COMPARED)}
    compare(found, arrays)
    # Equal logits everywhere would agree whatever the settings.
    assert len(np.unique(arrays["logits"].round(3))) > arrays["logits"].size // 3


OF_CLASSES = {pretrained.FAMILIES[kind].model: name for name, kind in FAMILY.items()}
"""A fixture of each class of models."""


@pytest.mark.parametrize("name", OF_CLASSES.values())
def test_maps_have_the_values_of_transformers_through_a_fused_kernel(name: str) -> None:
    """Of ``blockwise``, which holds no weights: transformers gives None through such kernels."""
    arrays, model = stored(name), pretrained.load(HOME / name)
    inputs = {key: arrays[key] for key in INPUTS if key in arrays}
    if "source" in arrays and name not in GENERATION:
        arrays["source_valid"] = arrays["source"] != model.config.pad_id
    with implemented_by("blockwise"):
        compare(run(*nnx.split(model), inputs), arrays)


def until_end(tokens: Any) -> np.ndarray:
    tokens = np.asarray(tokens)
    ends = tokens == END
    return np.where(np.cumsum(ends, axis=1) - ends > 0, -1, tokens)


@pytest.mark.parametrize("name", GENERATION)
def test_a_sound_has_the_frames_tokens_and_times_of_transformers(name: str, tmp_path: Path) -> None:
    """Of the folder with its generation_config.json, opened; the language is detected in one."""
    arrays, folder = stored(name), tmp_path / name
    shutil.copytree(HOME / name, folder)
    tiny_folders.write_tokenizer(name, folder, translates=True)
    frames = {"chunk_length": 1, "feature_size": arrays["features"].shape[-1]}
    write_json(folder / "preprocessor_config.json", frames)
    opened: Any = attnzoo.open(folder)
    task, model = opened.task, opened.model
    heard, ids = task.hearing, ids_of(task.tokenizer)
    program = functools.partial(transcribe, nnx.split(model)[0], ids, heard.rules, task.heads)

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(state: Any, source: Any) -> Any:
        encoder = nnx.merge(nnx.split(model)[0], state).source_encoder
        frames, _ = encoder.spectrogram(jax.numpy.nan_to_num(source))
        sizes: dict[str, Any] = {"max_length": opened.config.decoding.max_length, "alpha": 0.0}
        several = program(state, source, beam=BEAMS, **sizes)[0] if "untied" in name else None
        return frames, program(state, source, beam=1, **sizes), several

    frames, (greedy, language, weights), beams = run(nnx.split(model)[1], arrays["source"])
    close(frames, arrays["features"], "features")
    assert (language is None) == (name == "whisper-untied")
    for kind, found in (("greedy", greedy), ("beams", beams)):
        if found is None:
            continue
        tokens = np.asarray(found.tokens[:, 0])
        ends = np.cumsum(tokens == END, axis=1) > 0
        np.testing.assert_array_equal(np.where(ends, -1, tokens), arrays[kind], err_msg=kind)
    for row, size in enumerate(pretrained_fixtures.SAMPLES):
        # transformers leaves out the step that predicts the first token, and repeats the last time.
        columns = -(-size // 160) // 2
        starts = token_starts(np.asarray(weights)[row, :, 1:, :columns], heard.width)
        times = 0.02 * starts[[*range(len(starts)), -1]]
        np.testing.assert_allclose(times, arrays["times"][row], atol=1e-5)


@pytest.mark.parametrize("name", GENERATION)
def test_a_long_sound_has_the_segments_of_transformers(name: str, tmp_path: Path) -> None:
    """Of windows that end before the sound does; theirs pads the last ones otherwise."""
    arrays, folder = stored(name), tmp_path / name
    shutil.copytree(HOME / name, folder)
    tiny_folders.write_tokenizer(name, folder, translates=True)
    frames = {"chunk_length": 1, "feature_size": arrays["features"].shape[-1]}
    write_json(folder / "preprocessor_config.json", frames)
    kept = {key: GENERATION[name][key] for key in ("language", "task") if key in GENERATION[name]}
    write_json(folder / "generation_config.json", LONG | kept)
    opened: Any = attnzoo.open(folder)
    task, sound = opened.task, pretrained_fixtures.long_sound(arrays["source"])
    settings = PredictSettings(beam=1)
    (found,) = task.write(task.generator_of(opened.model, settings), [sound], settings)
    first_time = LONG["no_timestamps_token_id"] + 1
    theirs = [tuple(int(i) for i in x if 0 <= i < first_time) for x in arrays["long_tokens"]]
    wanted = [(ids, *at) for ids, at in zip(theirs, arrays["long_times"], strict=True) if ids]
    whole = [one for one in found.segments if one.end <= len(sound) / 16_000 - 1]
    assert len(whole) > 2
    for one, (ids, start, end) in zip(whole, wanted, strict=False):
        assert one.ids == ids
        np.testing.assert_allclose((one.start, one.end), (start, end), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in GENERATE if name not in GENERATION])
def test_generated_tokens_are_those_of_transformers(name: str) -> None:
    arrays, model = stored(name), pretrained.load(HOME / name)
    if "tokens" in arrays:
        rows, valid = arrays["tokens"][:3], arrays["valid"][:3]
        found = generate(model, rows, valid=valid, max_new_tokens=NEW, eos_id=END).tokens[:, 0]
        np.testing.assert_array_equal(until_end(found), arrays["greedy"])
        assert len(np.unique(arrays["greedy"], axis=0)) > 1
        return
    config, source = model.config, arrays["source"]
    ids = TokenIds(config.pad_id, config.start_id, config.eos_id, never=())
    sizes = {"batch": len(source), "source_length": LENGTH, "max_length": NEW, "ids": ids}

    @functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
    def search(graph: Any, state: Any, source: Any) -> Any:
        model = nnx.merge(graph, state)
        memory, first = model.start(source, max_length=NEW)
        return (
            greedy_search(model.step, first, memory, **sizes).tokens[:, 0],
            beam_search(model.step, first, memory, **sizes, beam=BEAMS, alpha=0.0).tokens[:, 0],
        )

    for kind, tokens in zip(("greedy", "beams"), search(*nnx.split(model), source), strict=True):
        np.testing.assert_array_equal(until_end(tokens), arrays[kind], err_msg=kind)


@pytest.mark.parametrize("name", [name for name in GENERATE if "tokens" in stored(name)])
def test_a_language_model_follows_its_folder_as_transformers_does(
    name: str, tmp_path: Path
) -> None:
    arrays, folder = stored(name), tmp_path / name
    shutil.copytree(HOME / name, folder)
    tiny_folders.write_tokenizer(name, folder, translates=False)
    rows, valid = arrays["tokens"][:3], arrays["valid"][:3]
    arguments = parse([str(folder)])
    write_json(folder / "generation_config.json", pretrained_fixtures.DRAWN)
    sampling = sampling_of(attnzoo.open(folder), arguments)
    seen = np.zeros((3, VOCAB), bool)
    for row, ids, known in zip(seen, rows, valid, strict=True):
        row[ids[known]] = True
    close_or_out(
        sampling.process(jax.numpy.asarray(arrays["logits"][:3, -1]), jax.numpy.asarray(seen)),
        arrays["scores"],
    )
    write_json(folder / "generation_config.json", pretrained_fixtures.FOLLOWED)
    opened: Any = attnzoo.open(folder)
    settings: Any = {"sampling": sampling_of(opened, arguments), "eos_id": opened.ends}
    room = _room(opened, arguments, LENGTH)
    found = generate(opened.model, rows, valid=valid, max_new_tokens=room, **settings).tokens[:, 0]
    assert room == 5
    np.testing.assert_array_equal(until_end(found), arrays["defaults"][:, :room])
    assert (arrays["defaults"][:, :room] != arrays["greedy"][:, :room]).any()


def close_or_out(found: Any, wanted: np.ndarray) -> None:
    """The same tokens are excluded, and the others have the same logits."""
    np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
    assert np.isinf(wanted).any()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_has_the_same_bytes(name: str, tmp_path: Path) -> None:
    """One of each family goes through our own folder."""
    model = pretrained.load(HOME / name)
    if name in dict(zip(FAMILY.values(), FAMILY, strict=True)).values():
        pretrained.save_own(model, tmp_path / "own")
        again = pretrained.load(tmp_path / "own")
        assert again.config == model.config
        model = again
    pretrained.save(model, tmp_path / "theirs")
    first, second = (
        load_file(at / "model.safetensors") for at in (HOME / name, tmp_path / "theirs")
    )
    computed = {n for n in first if "embed_positions" in n and n not in second}
    assert first.keys() - computed == second.keys()
    assert not computed or "marian" in name
    assert all(first[n].tobytes() == second[n].tobytes() for n in second)
    assert {n: first[n].shape for n in second} == {n: x.shape for n, x in second.items()}
    former, written = (read_json(at / "config.json") for at in (HOME / name, tmp_path / "theirs"))
    assert written["model_type"] == former["model_type"]
    assert written["architectures"] == former["architectures"]


def test_every_followed_field_has_a_fixture_with_another_value() -> None:
    """Of the fields for rotary positions one fixture of any family; training alone has none."""
    ours = {"num_labels": "id2label has it", "pooler_act": "tanh alone"}
    values: dict[str, dict[str, list[Any]]] = {kind: {} for kind in pretrained.FAMILIES}
    for name, kind in FAMILY.items():
        aliases = pretrained.FAMILIES[kind].fields.aliases
        for key, value in read_json(HOME / name / "config.json").items():
            values[kind].setdefault(aliases.get(key, key), []).append(value)
    missing = []
    for kind, family in pretrained.FAMILIES.items():
        for name, field in family.fields.followed.items():
            kinds = pretrained.FAMILIES if name in rotary.FOLLOWED else [kind]
            found = [value for one in kinds for value in values[one].get(name, [])]
            trains = "drop" in name
            if not trains and name not in ours and all(v == field.default for v in found):
                missing.append(f"{kind}: {name}")
        for part, (_, fields) in family.fields.parts.items():
            objects = values[kind].get(part, [])
            for name, field in fields.followed.items():
                same = all(one.get(name, field.default) == field.default for one in objects)
                if "drop" not in name and "_dict" not in part and same:
                    missing.append(f"{kind}: {part}: {name}")
    assert not missing


def test_every_family_has_two_and_all_are_small() -> None:
    assert sorted(path.name for path in HOME.iterdir()) == sorted(NAMES)
    assert {kind: min(list(FAMILY.values()).count(kind), 2) for kind in FAMILY.values()} == (
        dict.fromkeys(pretrained.FAMILIES, 2)
    )
    sizes = [path.stat().st_size for path in HOME.rglob("*.*") if path.is_file()]
    assert sum(sizes) < 4_000_000


@pytest.mark.parametrize("name", NAMES if INSTALLED else [ALL])
def test_the_fixtures_are_those_of_the_installed_transformers(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        model, arrays = pretrained_fixtures.expected(name)
    before = stored(name)
    assert arrays.keys() == before.keys()
    for key in set(arrays) - {"version"}:
        if arrays[key].dtype.kind == "f" and key != "source":
            close(arrays[key], before[key], key)
        else:  # ids, and sounds with NaN behind them
            np.testing.assert_array_equal(arrays[key], before[key], err_msg=key)
    model.save_pretrained(tmp_path / "theirs")
    made, kept = (load_file(at / "model.safetensors") for at in (tmp_path / "theirs", HOME / name))
    assert {k: v.tobytes() for k, v in made.items()} == {k: v.tobytes() for k, v in kept.items()}
    # What is written back is the same model in transformers.
    pretrained.save(pretrained.load(HOME / name), tmp_path / "ours")
    again = type(model).from_pretrained(tmp_path / "ours")
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(first[k].numpy().tobytes() == second[k].numpy().tobytes() for k in first)
