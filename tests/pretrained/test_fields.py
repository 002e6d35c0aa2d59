"""No field of a config.json is ignored: each is followed, without effect, or refused by name."""

import importlib.util
import itertools
import json
import math
from typing import Any

import pytest

import pretrained_fields
from attnzoo import pretrained
from attnzoo.errors import UserError
from attnzoo.pretrained.fields import REQUIRED, Fields, Settings
from attnzoo.pretrained.origin import Origin
from attnzoo.pretrained.rotary import FIELDS as ROTARY_FIELDS

FAMILIES = pretrained.FAMILIES
KINDS = list(FAMILIES)
GROUPS = [
    (kind, part, fields)
    for kind, family in FAMILIES.items()
    for part, fields in (
        (None, family.fields),
        *((part, fields) for part, (_, fields) in family.fields.parts.items()),
    )
]
"""The fields of every file, and those of the objects within it."""
each_group = pytest.mark.parametrize(
    ("kind", "part", "fields"), GROUPS, ids=[f"{kind}-{part}" for kind, part, _ in GROUPS]
)
TENSORS = ["pooler.dense.weight", *map(str, range(10_000))]
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 7, 10**9, 10**400, 0.5, math.nan, math.inf, -1.5, "", "64",
    "gated-", [], [7], [7, 7], [None, "x"], {}, {"0": 1}, {"rope_type": []},
)  # fmt: skip
LINEAR = {"rope_type": "linear"}
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 3.0, "original_max_position_embeddings": 17, "mscale": 0.7,
             "mscale_all_dim": 0.3},
    "llama3": {"factor": 3.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}  # fmt: skip


def read(kind: str, tensors: list[str] = TENSORS, **values: Any) -> Any:
    settings = Settings(values, "config.json", FAMILIES[kind].fields, tensors)
    return pretrained._checked(FAMILIES[kind], settings)


def refusal(kind: str, **values: Any) -> str | None:
    """The one line that refuses these values, None if they are taken."""
    try:
        read(kind, **values)
    except UserError as error:
        said = str(error)
    else:
        return None
    assert said.startswith("config.json: ")
    assert "\n" not in said
    return said


def inside(part: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """The values in the file, or in an object of the file."""
    return values if part is None else {part: values}


def test_every_field_of_transformers_is_in_one_group() -> None:
    stored = json.loads(pretrained_fields.FILE.read_text())
    assert list(stored["families"]) == sorted(pretrained_fields.groups())
    assert pretrained_fields.problems(stored) == []


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="no transformers")
def test_the_stored_fields_are_those_of_the_library() -> None:
    theirs = json.loads(json.dumps(pretrained_fields.of_transformers()))
    assert pretrained_fields.problems(theirs) == []
    stored = json.loads(pretrained_fields.FILE.read_text())
    assert theirs == stored or theirs["version"] != stored["version"]


@each_group
def test_a_followed_field_changes_the_config_or_is_refused_by_name(
    kind: str, part: str | None, fields: Fields
) -> None:
    """A name in the list that the reader does not read would be ignored."""
    ropes = [{"rope_type": rope} | given for rope, given in ROPES.items()]
    values = (False, True, 0, 1, 2, 3, 0.25, 7.0, "relu", "gated-silu", {"0": "a"}, [], *ropes,
              ["full_attention"] * 32, ["full_attention"] * 26,
              {"full_attention": {"rope_theta": 5.0}})  # fmt: skip
    bases = [
        {},
        {"use_sliding_window": True, "max_window_layers": 0},
        {"rope_parameters": {"rope_type": "llama3"} | ROPES["llama3"]},
        {"share_encoder_decoder_embeddings": False},
    ]
    for name, field in fields.followed.items():
        if name in fields.parts:
            continue
        for base, value in itertools.product(bases, values):
            if not set(base) <= set(fields.followed) or not field.fits(value):
                continue
            before, after = (inside(part, one) for one in (base, base | {name: value}))
            said = refusal(kind, **after)
            changed = read(kind, **before) != read(kind, **after) if not said else 0
            if changed or (said and f" {name}=" in said):
                break
        else:
            # One name or another of the model with the same head is the same model.
            assert name == "architectures" or refusal(kind, **inside(part, {name: ["x"]})), name


@each_group
def test_what_is_written_is_read_as_before(kind: str, part: str | None, fields: Fields) -> None:
    """Every followed field, with a value that changes the config, comes back."""
    plain, rewritten = TENSORS[1:], 0
    values = (False, True, 0, 1, 2, 36, 0.25, 7.0, "relu", "gated-silu", {"0": "a"},
              *({"rope_type": rope} | given for rope, given in ROPES.items()))  # fmt: skip
    tokens = dict.fromkeys((one for one in fields.followed if one.endswith("_token_id")), 7)
    for name, value in itertools.product(fields.followed, values):
        given = (tokens if name == "vocab_size" else {}) | {name: value}
        if refusal(kind, **inside(part, given)):
            continue
        written = FAMILIES[kind].write(*read(kind, plain, **inside(part, given)))
        if part is not None and part not in written:
            return  # a former name of another object
        former = {"unheard_of": 7} | dict.fromkeys(fields.without_effect, 7)
        former |= {"id2label": written.get("id2label"), name: value}
        origin = Origin(inside(part, former))
        completed = origin.complete(written, FAMILIES[kind].fields)
        lost = set(fields.without_effect) - set(completed if part is None else completed[part])
        assert all("record" in fields.without_effect[one] or "dtype" in one for one in lost)
        again = read(kind, plain, **{k: v for k, v in completed.items() if k != "model_type"})
        assert FAMILIES[kind].write(*again) == written, (name, value)
        rewritten += 1
    assert rewritten > len(fields.followed) - 2 * len(fields.parts)


@each_group
def test_an_odd_value_is_taken_or_refused_in_one_line_with_its_name(
    kind: str, part: str | None, fields: Fields
) -> None:
    for name in (*fields.followed, *fields.refused, *fields.aliases, "unheard_of"):
        for value in ODD:
            said = refusal(kind, **inside(part, {name: value}))
            names = (name, fields.aliases.get(name, name))
            assert said is None or any(one in said for one in names), (name, value, said)
        said = refusal(kind, **inside(part, {name: math.nan}))
        assert said, name
        assert "wanted nan" not in said
        if name.endswith("_token_id"):
            said = refusal(kind, **inside(part, {name: 13, "vocab_size": 13}))
            assert said, name
            assert f"{name}=13 is not supported; wanted a token id, at most 12" in said
    for name in fields.without_effect:
        ids = name.endswith("_token_id")
        plain, other = (inside(part, one) for one in ({}, {name: 7 if ids else "x"}))
        assert read(kind, **plain) == read(kind, **other), name
        for value in ("x", ["x"], 1.0, True) if ids else ():
            said = refusal(kind, **inside(part, {name: value}))
            assert said, name
            assert f"{name}={value!r} is not supported" in said


@pytest.mark.parametrize("form", ["", "gated-", "gated-gelu-new", "x-gelu"])
def test_a_form_of_t5_without_an_activation_is_refused(form: str) -> None:
    for more in ({}, {"dense_act_fn": "relu"}, {"dense_act_fn": "relu", "is_gated_act": True}):
        assert "feed_forward_proj=" in str(refusal("t5", feed_forward_proj=form, **more))
    assert refusal("t5", feed_forward_proj="x", dense_act_fn="relu") is None


@pytest.mark.parametrize("rope", ROPES)
def test_odd_and_unknown_values_of_rotary_scaling(rope: str) -> None:
    given, fields = {"rope_type": rope} | ROPES[rope], ROTARY_FIELDS[rope]
    for key in ("rope_parameters", "rope_scaling"):
        plain = read("llama", **{key: given})
        for name, value in itertools.product((*fields.followed, *fields.refused), ODD):
            said = refusal("llama", **{key: given | {name: value}})
            assert said is None or name in said or key in said, (name, value, said)
        for name in fields.followed:
            if name not in ("type", "rope_type"):
                value = 5 if name.startswith("original") else 5.0
                assert read("llama", **{key: given | {name: value}}) != plain, name
            if fields.followed[name].default is REQUIRED:
                without = {k: v for k, v in given.items() if k != name}
                assert f"no {name}" in str(refusal("llama", **{key: without}))
        assert "unheard_of=7" in str(refusal("llama", **{key: given | {"unheard_of": 7}}))


def test_what_is_refused_names_field_value_and_what_is_wanted() -> None:
    assert refusal("llama", is_causal=False) == (
        "config.json: is_causal=False is not supported; wanted true"
    )
    assert refusal("llama", is_causal=None)  # which transformers takes for false
    assert refusal("mistral", layer_types=["full_attention"] * 32) == (
        "config.json: layer_types=['full_attention', 'full_attention', 'full_attention', 'f... is "
        "not known; if the model does not depend on it, remove it from the file"
    )
    assert refusal("bert", hidden_size="64") == (
        "config.json: hidden_size='64' is not supported; wanted a whole number above 0"
    )
    assert refusal("bert", architectures=[])
    assert refusal("gpt2", n_embd=8, hidden_size=16) == (
        "config.json: hidden_size=16 is not supported; wanted 8, the value of n_embd"
    )
    assert "layer_types=" in str(refusal("gemma2", sliding_window=None))
    assert "rope_type='linear'" in str(
        refusal("gemma3_text", rope_parameters={"sliding_attention": ROPES["linear"] | LINEAR})
    )


PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "bert": [
        {"gradient_checkpointing": False, "position_embedding_type": "absolute", "use_cache": True},
        {"directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform"},
        {"_num_labels": 9, "output_past": True, "max_length": 128, "finetuning_task": "ner"},
    ],
    "gpt2": [{"n_ctx": 1024, "task_specific_params": {"text-generation": {"do_sample": True}}}],
    "llama": [
        {"pretraining_tp": 1, "rope_scaling": None, "torch_dtype": "float16"},
        {"rope_scaling": {"rope_type": "llama3"} | ROPES["llama3"], "eos_token_id": [1, 2]},
        {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}},
    ],
    "mixtral": [{"sliding_window": None, "rope_theta": 1e6, "router_jitter_noise": 0.0}],
    "mistral": [{"sliding_window": None, "head_dim": None, "tie_word_embeddings": False}],
    "qwen2": [{"use_sliding_window": False, "max_window_layers": 21, "use_mrope": False}],
    "qwen3": [{"attention_bias": False, "rope_theta": 1000000, "rope_scaling": None}],
    "t5": [
        {"n_positions": 512, "output_past": True, "dropout_rate": 0},
        {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True},
    ],
    "bart": [
        {"add_bias_logits": False, "add_final_layer_norm": False, "classif_dropout": 0.1},
        {"encoder_layers": 6, "num_hidden_layers": 6, "normalize_embedding": True},
        {"early_stopping": True, "no_repeat_ngram_size": 3, "static_position_embeddings": False},
    ],
    "marian": [
        {"bad_words_ids": [[58100]], "num_beams": 6, "static_position_embeddings": True},
        {"extra_pos_embeddings": 58101, "normalize_embedding": False, "normalize_before": False},
    ],
    "roberta": [{"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}],
    "xlm-roberta": [{"max_position_embeddings": 514, "output_past": True, "vocab_size": 250002}],
    "distilbert": [
        {"tie_weights_": True, "qa_dropout": 0.1, "seq_classif_dropout": 0.2},
        {"sinusoidal_pos_embds": False, "finetuning_task": "sst-2", "output_past": True},
    ],
    "albert": [
        {"down_scale_factor": 1, "gap_size": 0, "inner_group_num": 1, "net_structure_type": 0},
        {"num_memory_blocks": 0, "layers_to_keep": [], "classifier_dropout_prob": 0.1},
    ],
    "mbart": [
        {"add_final_layer_norm": True, "normalize_before": True, "normalize_embedding": True},
        {"static_position_embeddings": False, "add_bias_logits": False, "max_length": 200},
    ],
    "m2m_100": [{"early_stopping": True, "num_beams": 5, "max_length": 200}],
    "gemma2": [{"cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh"}],
    "gemma3_text": [
        {"rope_local_base_freq": 10000, "rope_scaling": None, "sliding_window_pattern": 6},
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 512},
    ],
    "whisper": [
        {"forced_decoder_ids": [[1, 50259], [2, 50359], [3, 50363]], "max_length": 448},
        {"encoder_layers": 6, "num_hidden_layers": 6, "suppress_tokens": [1, 2, 7]},
        {"apply_spec_augment": False, "mask_time_prob": 0.05, "use_weighted_layer_sum": False},
    ],
    "vit": [{"id2label": {"0": "tench", "1": "goldfish"}, "label2id": {"tench": "0"}}],
    "dinov2": [{"out_features": ["stage12"], "stage_names": ["stem"], "apply_layernorm": True}],
    "dinov3_vit": [
        {"pos_embed_jitter": None, "pos_embed_rescale": 2.0, "pos_embed_shift": None,
         "num_register_tokens": 4, "apply_layernorm": True, "reshape_hidden_states": True},
        {"hidden_act": "silu", "use_gated_mlp": True, "query_bias": False, "value_bias": False},
    ],
    "clip": [
        {
            "text_config_dict": None,
            "vision_config_dict": None,
            "text_config": {"bad_words_ids": None, "bos_token_id": 0, "eos_token_id": 2,
                            "dropout": 0.0, "is_decoder": False, "model_type": "clip_text_model",
                            "projection_dim": 512, "tie_word_embeddings": True, "top_k": 50},
            "vision_config": {"cross_attention_hidden_size": None, "pruned_heads": {},
                              "initializer_factor": 1.0, "torchscript": False},
        },
        {"text_config_dict": {"hidden_size": 768, "num_attention_heads": 12,
                              "projection_dim": 768}, "projection_dim": 768},
    ],
    "siglip": [
        {"initializer_factor": 1.0, "torch_dtype": "float32",
         "text_config": {"model_type": "siglip_text_model"},
         "vision_config": {"model_type": "siglip_vision_model"}},
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED)
def test_fields_of_published_files_are_taken(kind: str) -> None:
    for values in PUBLISHED[kind]:
        assert refusal(kind, **values) is None


def test_what_transformers_follows_is_followed() -> None:
    def attention(kind: str, **values: Any) -> Any:
        return read(kind, **values)[0].attention

    assert attention("mistral").window == 4096
    assert attention("mistral", sliding_window=None).window is None
    assert attention("mistral").num_kv_heads == 8
    assert attention("qwen3").head_dim == 128
    windows = {"use_sliding_window": True, "sliding_window": 3}
    assert attention("qwen2", **windows, max_window_layers=32).window is None
    assert attention("qwen2", **windows, layer_types=["sliding_attention"] * 32).window == 3
    assert read("qwen2", use_sliding_window=True)[0].global_layers == tuple(range(28))
    assert read("gemma2")[0].global_layers == tuple(range(1, 26, 2))
    assert read("gemma3_text")[0].global_layers == (5, 11, 17, 23)
    assert (attention("gemma2").softcap, attention("gemma2").scale) == (50.0, None)
    assert attention("gemma2", query_pre_attn_scalar=144).scale == 144**-0.5
    gemma = read("gemma3_text", rope_scaling={"rope_type": "linear", "factor": 8.0})[0]
    assert (gemma.rotary_base, gemma.local_rotary_base) == (1e6, 1e4)
    assert gemma.rotary_scaling.factor == 8.0
    assert read("roberta", max_position_embeddings=514)[0].max_length == 512
    assert read("mbart")[0].start_id == 2
    assert read("vit", image_size=[96, 96], patch_size=[8, 8])[0].image_size == 96
    assert read("dinov2", image_size=28)[0].patch == 14
    ends = [{"eos_token_id": 2}, {"eos_token_id": 7}]
    clips = [read("clip", text_config_dict=one, text_config={"vocab_size": 9}) for one in ends]
    assert [clip[0].text.pooling for clip in clips] == ["largest", "end"]
    assert clips[0][1] == (49408,)
    assert read("siglip")[0].text.pooling == "last"
    t5 = read("t5", feed_forward_proj="gated-gelu", dense_act_fn="silu")[0]
    assert (t5.activation, t5.gated) == ("silu", True)


def test_rotary_scaling_as_in_transformers() -> None:
    def scaling(**values: Any) -> Any:
        return read("llama", **values)[0].rotary_scaling

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    assert scaling(rope_parameters=yarn).amplitude is None
    assert scaling(rope_parameters=yarn | {"attention_factor": 1.0}).amplitude == 1.0
    both = yarn | {"mscale": 1.0, "mscale_all_dim": 1.0}
    assert scaling(rope_parameters=both).amplitude == 1.0
    assert scaling(rope_parameters=yarn | {"mscale": 1.0}).amplitude is None
    linear = {"type": "linear", "factor": 2.0}
    assert scaling(rope_parameters=yarn, rope_scaling=linear).kind == "linear"
    assert scaling(rope_parameters=yarn, original_max_position_embeddings=8).original_length == 8
    without = {"rope_type": "yarn", "factor": 4.0}
    assert scaling(rope_parameters=without).original_length == 2048
    assert scaling(rope_parameters=without | {"factor": None}, original_max_position_embeddings=512
                   ).factor == 4.0  # fmt: skip


def test_a_field_that_is_not_read_is_found() -> None:
    """The comparison with transformers can fail."""
    stored = json.loads(pretrained_fields.FILE.read_text())
    stored["families"] = {"bert": stored["families"]["bert"]}
    stored["families"]["bert"]["defaults"] |= {"new_field": 1, "hidden_size": 7, "is_decoder": True}
    assert sorted(pretrained_fields.problems(stored)) == [
        "bert: hidden_size is 768 by default, wanted 7",
        "bert: is_decoder is refused at its default, True",
        "bert: new_field is in no group",
    ]
