# Over 400 lines: a table, the settings of each family.
"""Settings of the tiny models of ``pretrained_fixtures.py``: unusual ones, two or more a family."""

from typing import Any

VOCAB, PAD, START, END = 23, 5, 3, 4
DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-3,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
# PyTorch's grouped product wants rows of multiples of 16 bytes.
MIXTRAL = DECODER | {"intermediate_size": 20}
GEMMA = DECODER | {"num_hidden_layers": 3, "sliding_window": 3}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 3.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 25,
    "layer_norm_eps": 1e-3,
    "type_vocab_size": 3,
    "pad_token_id": PAD,
}
DISTIL = {
    "vocab_size": VOCAB,
    "dim": 12,
    "hidden_dim": 17,
    "n_layers": 2,
    "n_heads": 3,
    "max_position_embeddings": 25,
    "pad_token_id": PAD,
}
ALBERT = ENCODER | {"embedding_size": 7, "num_hidden_layers": 4}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 12,
    "n_inner": 17,
    "n_layer": 2,
    "n_head": 3,
    "n_positions": 25,
    "layer_norm_epsilon": 1e-3,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 17,
    "num_layers": 1,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 9,
    "pad_token_id": PAD,
    "decoder_start_token_id": START,
    "eos_token_id": END,
}
TRANSLATOR = {
    "vocab_size": VOCAB,
    "d_model": 12,
    "encoder_ffn_dim": 17,
    "decoder_ffn_dim": 17,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 19,
    "pad_token_id": PAD,
    "decoder_start_token_id": START,
    "eos_token_id": END,
    "forced_eos_token_id": END,
}
IMAGES = {
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "layer_norm_eps": 1e-3,
    "image_size": 12,
    "patch_size": 4,
    "num_channels": 2,
    "num_labels": 5,
}
DINO = {key: value for key, value in IMAGES.items() if key != "intermediate_size"}
TOWER = {
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "layer_norm_eps": 1e-3,
}
TEXT_TOWER = TOWER | {
    "vocab_size": VOCAB,
    "max_position_embeddings": 25,
    "pad_token_id": PAD,
    "eos_token_id": END,
}
IMAGE_TOWER = TOWER | {"image_size": 12, "patch_size": 4, "num_channels": 2, "hidden_size": 15}
DINO3 = DINO | {"intermediate_size": 17, "num_attention_heads": 3}
CLASSES = {"num_labels": 5}
WHISPER = {
    "vocab_size": VOCAB,
    "num_mel_bins": 11,
    "max_source_positions": 50,
    "max_target_positions": 19,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "d_model": 12,
    "encoder_ffn_dim": 17,
    "decoder_ffn_dim": 17,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": END,
    "decoder_start_token_id": START,
    "median_filter_width": 5,
    "scale_embedding": True,
}
FIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-yarn": (
        "LlamaForCausalLM",
        DECODER
        | {
            "rope_parameters": YARN | {"rope_theta": 50.0, "mscale": 0.7, "mscale_all_dim": 1.5},
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "llama-llama3": (
        "LlamaForCausalLM",
        DECODER
        | {
            "rope_theta": 90.0,
            "rope_scaling": LLAMA3,
            "original_max_position_embeddings": 9,
            "num_key_value_heads": 1,
            "hidden_act": "gelu",
            "tie_word_embeddings": True,
        },
    ),
    "mistral-window": (
        "MistralForCausalLM",
        DECODER
        | {"sliding_window": 3, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
    ),
    "mistral-whole": (
        "MistralForCausalLM",
        DECODER
        | {
            "sliding_window": None,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 30.0},
        },
    ),
    "qwen2-window": (
        "Qwen2ForCausalLM",
        DECODER
        | {
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 0,
            "hidden_act": "relu",
        },
    ),
    "mixtral": (
        "MixtralForCausalLM",
        MIXTRAL | {"num_local_experts": 3, "num_experts_per_tok": 2, "rope_theta": 60.0},
    ),
    "mixtral-window": (
        "MixtralForCausalLM",
        MIXTRAL
        | {
            "num_local_experts": 5,
            "num_experts_per_tok": 1,
            "router_aux_loss_coef": 0.25,
            "sliding_window": 3,
            "hidden_act": "gelu",
            "tie_word_embeddings": True,
        },
    ),
    "qwen2-tied": (
        "Qwen2ForCausalLM",
        DECODER | {"tie_word_embeddings": True, "rope_parameters": YARN | {"rope_theta": 40.0}},
    ),
    "qwen3-layer-types": (
        "Qwen3ForCausalLM",
        DECODER
        | {
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 2,
            "layer_types": ["sliding_attention"] * 2,
            "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 70.0},
        },
    ),
    "qwen3-tied": (
        "Qwen3ForCausalLM",
        DECODER
        | {
            "tie_word_embeddings": True,
            "head_dim": 4,
            "num_key_value_heads": 4,
            "hidden_act": "gelu_pytorch_tanh",
        },
    ),
    "qwen3-some-windows": (
        "Qwen3ForCausalLM",
        DECODER
        | {
            "use_sliding_window": True,
            "sliding_window": 3,
            "max_window_layers": 1,
            "num_hidden_layers": 3,
        },
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        GEMMA
        | {
            "query_pre_attn_scalar": 11,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma2-yarn": (
        "Gemma2ForCausalLM",
        GEMMA
        | {
            "attention_bias": True,
            "hidden_activation": "silu",
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": False,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "rope_parameters": YARN | {"rope_theta": 50.0},
        },
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        GEMMA
        | {
            "sliding_window_pattern": 3,
            "query_pre_attn_scalar": 6,
            "rope_theta": 200.0,
            "rope_local_base_freq": 30.0,
        },
    ),
    "gemma3-linear": (
        "Gemma3ForCausalLM",
        GEMMA
        | {
            "attention_bias": True,
            "hidden_activation": "relu",
            "tie_word_embeddings": False,
            "final_logit_softcapping": 4.0,
            "attn_logit_softcapping": 5.0,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 90.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
    ),
    "bert-pretraining": ("BertForPreTraining", ENCODER | {"hidden_act": "gelu_new"}),
    "bert-sequence": ("BertForSequenceClassification", ENCODER | CLASSES | {"hidden_act": "relu"}),
    "bert-token": ("BertForTokenClassification", ENCODER | CLASSES | {"hidden_act": "silu"}),
    "roberta-lm": ("RobertaForMaskedLM", ENCODER | {"type_vocab_size": 1}),
    "roberta-sequence": (
        "RobertaForSequenceClassification",
        ENCODER | CLASSES | {"hidden_act": "relu", "pad_token_id": 0},
    ),
    "xlm-roberta-lm": ("XLMRobertaForMaskedLM", ENCODER | {"pad_token_id": 1}),
    "xlm-roberta-token": (
        "XLMRobertaForTokenClassification",
        ENCODER | CLASSES | {"hidden_act": "gelu_new"},
    ),
    "distilbert-lm": ("DistilBertForMaskedLM", DISTIL | {"activation": "relu"}),
    "distilbert-sequence": (
        "DistilBertForSequenceClassification",
        DISTIL | CLASSES | {"sinusoidal_pos_embds": True},
    ),
    "albert-pretraining": (
        "AlbertForPreTraining",
        ALBERT | {"num_hidden_groups": 2, "hidden_act": "silu"},
    ),
    "albert-sequence": (
        "AlbertForSequenceClassification",
        ALBERT | CLASSES | {"num_hidden_layers": 3},
    ),
    "albert-model": ("AlbertModel", ALBERT | {"embedding_size": 12, "num_hidden_layers": 2}),
    "gpt2-untied": (
        "GPT2LMHeadModel",
        GPT2 | {"activation_function": "relu", "tie_word_embeddings": False},
    ),
    "gpt2-tied": ("GPT2LMHeadModel", GPT2 | {"n_inner": None, "activation_function": "gelu"}),
    "t5-dense-act-fn": (
        "T5ForConditionalGeneration",
        T5
        | {
            "feed_forward_proj": "gated-gelu",
            "dense_act_fn": "silu",
            "tie_word_embeddings": False,
        },
    ),
    "t5-relu": (
        "T5ForConditionalGeneration",
        T5 | {"num_layers": 2, "num_decoder_layers": 1, "layer_norm_epsilon": 1e-3},
    ),
    "bart-scaled": (
        "BartForConditionalGeneration",
        TRANSLATOR | {"activation_function": "relu", "scale_embedding": True},
    ),
    "bart-start-is-end": (
        "BartForConditionalGeneration",
        TRANSLATOR | {"activation_function": "gelu_new", "decoder_start_token_id": END},
    ),
    "marian-two-vocabularies": (
        "MarianMTModel",
        TRANSLATOR
        | {
            "activation_function": "swish",
            "scale_embedding": True,
            "share_encoder_decoder_embeddings": False,
            "decoder_vocab_size": VOCAB - 4,
        },
    ),
    "marian-start-is-padding": (
        "MarianMTModel",
        TRANSLATOR | {"activation_function": "gelu", "decoder_start_token_id": PAD},
    ),
    "mbart-scaled": (
        "MBartForConditionalGeneration",
        TRANSLATOR | {"activation_function": "relu", "scale_embedding": True},
    ),
    "mbart-deeper": (
        "MBartForConditionalGeneration",
        TRANSLATOR
        | {"activation_function": "silu", "encoder_layers": 2, "decoder_start_token_id": END},
    ),
    "m2m100": (
        "M2M100ForConditionalGeneration",
        TRANSLATOR | {"activation_function": "gelu", "decoder_start_token_id": END},
    ),
    "m2m100-unscaled": (
        "M2M100ForConditionalGeneration",
        TRANSLATOR | {"scale_embedding": False, "pad_token_id": 1, "decoder_attention_heads": 6},
    ),
    "vit": ("ViTForImageClassification", IMAGES | {"hidden_act": "gelu_new", "qkv_bias": False}),
    "vit-model": ("ViTModel", IMAGES | {"hidden_act": "relu"}),
    "deit-distilled": (
        "DeiTForImageClassificationWithTeacher",
        IMAGES | {"hidden_act": "silu"},
    ),
    "deit": ("DeiTForImageClassification", IMAGES | {"qkv_bias": False}),
    "dinov2": (
        "Dinov2ForImageClassification",
        DINO | {"mlp_ratio": 2, "layerscale_value": 0.3, "hidden_act": "relu"},
    ),
    "dinov2-model": ("Dinov2Model", DINO | {"use_swiglu_ffn": True, "qkv_bias": False}),
    "dinov2-registers": (
        "Dinov2WithRegistersForImageClassification",
        DINO | {"mlp_ratio": 3, "num_register_tokens": 2, "use_swiglu_ffn": True},
    ),
    "dinov2-registers-plain": (
        "Dinov2WithRegistersModel",
        DINO
        | {
            "num_register_tokens": 1,
            "qkv_bias": False,
            "layerscale_value": 0.7,
            "hidden_act": "silu",
        },
    ),
    "whisper": ("WhisperForConditionalGeneration", WHISPER),
    "whisper-untied": (
        "WhisperForConditionalGeneration",
        WHISPER
        | {
            "tie_word_embeddings": False,
            "activation_function": "relu",
            "num_mel_bins": 7,
            "encoder_layers": 2,
            "decoder_layers": 1,
        },
    ),
    "dinov3": (
        "DINOv3ViTModel",
        DINO3
        | {"num_register_tokens": 2, "layerscale_value": 0.3, "rope_theta": 30.0, "key_bias": True},
    ),
    "dinov3-gated": (
        "DINOv3ViTModel",
        DINO3
        | {
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "query_bias": False,
            "value_bias": False,
        },
    ),
    "clip": (
        "CLIPModel",
        {
            "text_config": TEXT_TOWER | {"num_hidden_layers": 1, "hidden_act": "gelu"},
            "vision_config": IMAGE_TOWER | {"hidden_act": "gelu_pytorch_tanh"},
            "projection_dim": 7,
        },
    ),
    "clip-former": (
        "CLIPModel",
        {
            "text_config_dict": TEXT_TOWER | {"eos_token_id": 2, "num_attention_heads": 2},
            "vision_config_dict": IMAGE_TOWER | {"num_attention_heads": 5},
            "projection_dim": 9,
        },
    ),
    "siglip": (
        "SiglipModel",
        {
            "text_config": TEXT_TOWER | {"projection_size": 15, "hidden_act": "relu"},
            "vision_config": IMAGE_TOWER | {"num_hidden_layers": 1, "hidden_act": "gelu"},
        },
    ),
    "siglip-same-width": (
        "SiglipModel",
        {
            "text_config": TEXT_TOWER | {"num_hidden_layers": 1},
            "vision_config": IMAGE_TOWER | {"hidden_size": 12, "num_attention_heads": 4},
        },
    ),
}
HEARD = {
    "lang_to_id": {"<|en|>": 17, "<|fr|>": 18},
    "task_to_id": {"transcribe": 19, "translate": 20},
    "no_timestamps_token_id": 22,
    "is_multilingual": True,
    "suppress_tokens": [PAD, 17, 18, 19, 20, 22],
    "begin_suppress_tokens": [9, END],
    "no_repeat_ngram_size": 2,
    "decoder_start_token_id": START,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "max_new_tokens": 9,
}
LONG = HEARD | {
    "lang_to_id": {"<|en|>": 6, "<|fr|>": 7},
    "task_to_id": {"transcribe": 8, "translate": 9},
    "no_timestamps_token_id": 10,
    "suppress_tokens": [PAD, 6, 7, 8, 9],
    "begin_suppress_tokens": [END],
    "no_repeat_ngram_size": 0,
    "max_initial_timestamp_index": 5,
}
"""Settings of generation for sounds of several windows: tokens above 10 are times."""
GENERATION: dict[str, dict[str, Any]] = {
    "whisper": HEARD | {"alignment_heads": [[1, 0], [0, 1]]},
    "whisper-untied": HEARD
    | {"alignment_heads": [[0, 1]], "language": "french", "task": "translate"},
}
"""Settings of generation of the models that hear."""
FORMER = {
    "text_config_dict": "text_config",
    "vision_config_dict": "vision_config",
    "rope_theta": "rope_parameters",
    "rope_scaling": "rope_parameters",
    "rope_local_base_freq": "rope_parameters",
    "original_max_position_embeddings": "rope_parameters",
    "tie_word_embeddings": "scale_decoder_outputs",
}
"""Fields of transformers 4, with those that replace them; a setting so named stays in the file."""
