"""Our mechanisms beside those of Hugging Face transformers, weights copied, nothing downloaded.

Their eager code is called directly: float32, agreement to 1e-5 unless a test says otherwise.
"""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import ops
from attnzoo.attention import LatentAttention, MultiHeadAttention, Rotary, T5RelativeBias
from attnzoo.attention.projection import RMSNorm
from attnzoo.ops import masks, rotary, score_mods

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

B, T, D, N, K, H = 2, 7, 24, 4, 2, 6


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def heads_second(x: np.ndarray):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, 1, 2)))


def causal_bias():
    """Theirs is added to the logits: 0 where a query may look, -inf elsewhere."""
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    return torch.zeros(1, 1, T, T).masked_fill(~seen, float("-inf"))


def randomise(module) -> None:
    """Norms start at 1 and biases at 0, which would hide a missing one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.5)


def array(parameter) -> jnp.ndarray:
    return jnp.asarray(parameter.detach().numpy())


def copy_kernels(ours, theirs, names: dict[str, str]) -> None:
    """A torch Linear keeps out x in, we keep in x out."""
    for mine, other in names.items():
        assert getattr(ours, mine).kernel.shape == tuple(getattr(theirs, other).weight.T.shape)
        getattr(ours, mine).kernel[...] = array(getattr(theirs, other).weight).T


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets(bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-300, 301, dtype=np.int32)
    for buckets, longest in ((32, 128), (16, 50)):
        wanted = T5Attention._relative_position_bucket(
            torch.from_numpy(distance.astype(np.int64)), bidirectional, buckets, longest
        )
        found = score_mods.t5_bucket(jnp.asarray(distance), bidirectional, buckets, longest)
        np.testing.assert_array_equal(found, wanted.numpy())


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_attention(bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention, T5Config

    config = T5Config(
        d_model=D,
        d_kv=H,
        num_heads=N,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=6,
        is_decoder=not bidirectional,
        dropout_rate=0.0,
        attn_implementation="eager",
    )
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()
    randomise(theirs)
    bias = T5RelativeBias(
        N, bidirectional=bidirectional, num_buckets=8, max_distance=6, rngs=nnx.Rngs(0)
    )
    bias.table[...] = array(theirs.relative_attention_bias.weight).T
    ours = MultiHeadAttention(
        D,
        N,
        head_dim=H,
        scale=1.0,
        score_mod=bias,
        mask_mod=None if bidirectional else masks.causal(),
        rngs=nnx.Rngs(0),
    )
    copy_kernels(ours, theirs, {"query": "q", "key": "k", "value": "v", "out": "o"})
    x = 0.3 * draw(B, T, D)
    mask = torch.zeros(1, 1, T, T) if bidirectional else causal_bias()
    with torch.no_grad():
        added = theirs.compute_bias(T, T) + mask
        wanted = theirs(torch.from_numpy(x), mask=None, position_bias=added)
    found = ours(jnp.asarray(x), jnp.asarray(x))
    wanted = wanted[0].numpy()
    # The outputs are of order 10.
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("heads", [1, 2, 8, 12, 20])
def test_alibi(heads: int) -> None:
    """Theirs adds slope * j, ours -slope * (i - j): the same to a softmax under a causal mask."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, T, dtype=torch.int64), heads, torch.float32)
    slopes = score_mods.alibi_slopes(heads)
    np.testing.assert_allclose(slopes, theirs[:, 0, 1].numpy(), rtol=1e-6)
    q, k, v = (jnp.asarray(draw(1, T, heads, H, seed=i)) for i in range(3))
    added = jnp.asarray(theirs.numpy())[None]
    wanted = ops.dot_product_attention(q, k, v, bias=added, is_causal=True)
    found = ops.dot_product_attention(q, k, v, score_mod=score_mods.alibi(heads), is_causal=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


ROPE = {
    "default": (None, {}, 64),
    "linear": (rotary.LinearScaling(4.0), {"factor": 4.0}, 64),
    "dynamic": (rotary.DynamicNTKScaling(4.0, 16), {"factor": 4.0}, 16),
    "yarn": (
        rotary.YaRNScaling(16.0, 64),
        {"factor": 16.0, "original_max_position_embeddings": 64},
        1024,
    ),
    "llama3": (
        rotary.Llama3Scaling(8.0, 1.0, 4.0, 64),
        {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        512,
    ),
}


@pytest.mark.parametrize("length", [16, 50])
@pytest.mark.parametrize("kind", ROPE)
def test_rotary_and_its_scalings(kind: str, length: int) -> None:
    """Turned queries, not only frequencies: YaRN also stretches them."""
    from transformers.models.llama.modeling_llama import (
        LlamaConfig,
        LlamaRotaryEmbedding,
        apply_rotary_pos_emb,
    )

    scaling, settings, longest = ROPE[kind]
    width = 32
    config = LlamaConfig(
        hidden_size=2 * width,
        num_attention_heads=2,
        max_position_embeddings=longest,
        rope_parameters={"rope_type": kind, "rope_theta": 10_000.0, **settings},
    )
    x = draw(1, length, 2, width)
    theirs = LlamaRotaryEmbedding(config)
    cos, sin = theirs(torch.from_numpy(x), torch.arange(length)[None])
    wanted, _ = apply_rotary_pos_emb(heads_second(x), heads_second(x), cos, sin)
    found = ops.rotary_embedding(
        jnp.asarray(x), jnp.arange(length, dtype=jnp.int32)[None], scaling=scaling, length=length
    )
    # An angle of 50 radians has an error of 50 eps = 6e-6 in either library.
    np.testing.assert_allclose(found, np.moveaxis(wanted.numpy(), 1, 2), atol=3e-5)
    if kind == "dynamic":
        plain = ops.rotary_frequencies(width)
        found = ops.rotary_frequencies(width, scaling=scaling, length=length)
        assert bool(np.allclose(found, plain)) == (length <= 16)


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("query_rank", [None, 10])
def test_latent_attention_of_deepseek(query_rank: int | None, absorbed: bool) -> None:
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
        DeepseekV3Attention,
        DeepseekV3Config,
        DeepseekV3RotaryEmbedding,
    )

    latent, turning, plain, value = 9, 4, 6, 5
    config = DeepseekV3Config(
        hidden_size=D,
        num_attention_heads=N,
        num_key_value_heads=N,
        q_lora_rank=query_rank,
        kv_lora_rank=latent,
        qk_rope_head_dim=turning,
        qk_nope_head_dim=plain,
        v_head_dim=value,
        rope_interleave=True,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    theirs = DeepseekV3Attention(config, layer_idx=0).eval()
    randomise(theirs)
    ours = LatentAttention(
        D,
        N,
        latent_dim=latent,
        rotary_dim=turning,
        head_dim=plain,
        value_dim=value,
        query_rank=query_rank,
        mask_mod=masks.causal(),
        rngs=nnx.Rngs(0),
    )
    names = {"down": "kv_a_proj_with_mqa", "out": "o_proj"}
    if query_rank is None:
        names["query"] = "q_proj"
    else:
        names |= {"query_down": "q_a_proj", "query": "q_b_proj"}
        ours.query_norm.scale[...] = array(theirs.q_a_layernorm.weight)
    copy_kernels(ours, theirs, names)
    ours.norm.scale[...] = array(theirs.kv_a_layernorm.weight)
    up = array(theirs.kv_b_proj.weight).reshape(N, plain + value, latent)
    ours.key_up[...], ours.value_up[...] = up[:, :plain], up[:, plain:]

    x = draw(B, T, D)
    embedding = DeepseekV3RotaryEmbedding(config)(torch.from_numpy(x), torch.arange(T)[None])
    with torch.no_grad():
        wanted, weights = theirs(torch.from_numpy(x), embedding, causal_bias())
    memory = ours.prepare(jnp.asarray(x))
    found, seen = ours.attend(jnp.asarray(x), memory, absorbed=absorbed, return_weights=True)
    # Logits are of order 10 here, and the outputs, too.
    wanted = wanted.numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(seen, weights.numpy(), atol=2e-5)


def test_query_and_key_norms_of_qwen3() -> None:
    """Norms per head before the rotary embedding, grouped keys, a head that is not D / N wide."""
    from transformers.models.qwen3.modeling_qwen3 import (
        Qwen3Attention,
        Qwen3Config,
        Qwen3RotaryEmbedding,
    )

    config = Qwen3Config(
        hidden_size=D,
        num_attention_heads=N,
        num_key_value_heads=K,
        head_dim=8,
        rms_norm_eps=1e-6,
        num_hidden_layers=1,
        attn_implementation="eager",
    )
    theirs = Qwen3Attention(config, layer_idx=0).eval()
    randomise(theirs)
    ours = MultiHeadAttention(
        D,
        N,
        num_kv_heads=K,
        head_dim=8,
        qk_norm=RMSNorm,
        rotary=Rotary(base=config.rope_parameters["rope_theta"]),
        mask_mod=masks.causal(),
        rngs=nnx.Rngs(0),
    )
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    copy_kernels(ours, theirs, names)
    ours.query_norm.scale[...] = array(theirs.q_norm.weight)
    ours.key_norm.scale[...] = array(theirs.k_norm.weight)
    x = draw(B, T, D)
    embedding = Qwen3RotaryEmbedding(config)(torch.from_numpy(x), torch.arange(T)[None])
    with torch.no_grad():
        wanted, weights = theirs(torch.from_numpy(x), embedding, causal_bias())
    found, seen = ours(jnp.asarray(x), jnp.asarray(x), return_weights=True)
    wanted = wanted.numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5 * max(np.abs(wanted).max(), 1))
    np.testing.assert_allclose(seen, weights.numpy(), atol=1e-5)


def test_sinks_of_gpt_oss() -> None:
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    q, k, v = draw(B, T, N, H), draw(B, T, K, H, seed=1), draw(B, T, K, H, seed=2)
    sinks = draw(N, seed=3)
    module = types.SimpleNamespace(
        num_key_value_groups=N // K, sinks=torch.from_numpy(sinks), training=False
    )
    wanted, weights = eager_attention_forward(
        module, *map(heads_second, (q, k, v)), causal_bias(), scaling=0.3
    )
    found, seen = ops.dot_product_attention(
        *map(jnp.asarray, (q, k, v)),
        sinks=jnp.asarray(sinks),
        scale=0.3,
        is_causal=True,
        return_weights=True,
    )
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(seen, weights.numpy(), atol=1e-5)


def test_soft_cap_of_gemma2() -> None:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    q, k, v = 3 * draw(B, T, N, H), draw(B, T, K, H, seed=1), draw(B, T, K, H, seed=2)
    module = types.SimpleNamespace(num_key_value_groups=N // K, head_dim=H, training=False)
    wanted, weights = eager_attention_forward(
        module, *map(heads_second, (q, k, v)), causal_bias(), softcap=2.0
    )
    found, seen = ops.dot_product_attention(
        *map(jnp.asarray, (q, k, v)), softcap=2.0, is_causal=True, return_weights=True
    )
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(seen, weights.numpy(), atol=1e-5)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("kind", ["recurrent", "chunk"])
def test_gated_delta_rule_of_qwen3_next(kind: str, form: str) -> None:
    """Two value heads read each key head; a state goes in and comes out."""
    from transformers.models.qwen3_next import modeling_qwen3_next as theirs

    length, width = 21, 5
    q, k = draw(B, length, K, H), draw(B, length, K, H, seed=1)
    v, start = draw(B, length, N, width, seed=2), draw(B, N, H, width, seed=3)
    random = np.random.default_rng(4)
    beta = random.uniform(size=(B, length, N)).astype(np.float32)
    gate = -random.exponential(0.3, (B, length, N)).astype(np.float32)
    function = getattr(theirs, f"torch_{kind}_gated_delta_rule")
    wanted, end = function(
        *map(torch.from_numpy, (q, k, v, gate, beta)),
        initial_state=torch.from_numpy(start),
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        **({"chunk_size": 8} if kind == "chunk" else {}),
    )
    q, k = (jnp.repeat(jnp.asarray(x), N // K, axis=2) for x in (q, k))
    found, state = ops.gated_delta_net(
        q,
        k,
        *map(jnp.asarray, (v, beta, gate)),
        scale=H**-0.5,
        form=form,
        chunk_size=8,
        initial_state=jnp.asarray(start),
        return_state=True,
    )
    # They add 1e-6 to the squared length of q and k, we add nothing.
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(state, end.numpy(), atol=1e-5)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_state_space_duality_of_mamba2(form: str) -> None:
    """C, B and dt x are q, k and v of linear attention with the decay e^{A dt} of each head."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    length, width = 21, 5
    x, step = draw(B, length, N, width), np.abs(draw(B, length, N, seed=1))
    rate = -np.abs(draw(N, seed=2))
    write, read = draw(B, length, K, H, seed=3), draw(B, length, K, H, seed=4)
    wanted, end = mamba2_chunk_scan(
        *map(torch.from_numpy, (x, step, rate, write, read)), 8, return_final_states=True
    )
    q, k = (jnp.repeat(jnp.asarray(y), N // K, axis=2) for y in (read, write))
    found, state = ops.fast_weights(
        q,
        k,
        jnp.asarray(x * step[..., None]),
        log_decay=jnp.asarray(rate * step),
        form=form,
        chunk_size=8,
        return_state=True,
    )
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.swapaxes(state, 2, 3), end.numpy(), atol=1e-5)
