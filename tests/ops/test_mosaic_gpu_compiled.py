"""The Hopper kernels as the device gets them, compiled for an H200 that is not there.

Wants jax-cuda13-plugin, jax-cuda13-pjrt and ptxas beside jax, and JAX_PLATFORMS=cpu. Nothing runs;
what is looked at is ptxas' own account of registers and spills.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from attnzoo.ops import BlockMask, masks, score_mods
from attnzoo.ops.kernels import mosaic_gpu
from attnzoo.ops.logits import scoring

if jax.__version_info__ < (0, 11):
    pytest.skip(f"jax {jax.__version__} is older than these kernels", allow_module_level=True)

SHARED_MEMORY = 232_448
"""Bytes that a block of Hopper may have."""
B, T, N, K = 1, 512, 2, 1


@pytest.fixture(scope="module")
def mesh(shared):
    """One H200."""
    target = (shared / "kernels" / "h200.txtpb").read_text()
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=target, topology="1x1x1"
        )
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"no CUDA plugin to compile with: {error}")
    return topologies.make_mesh(topology, (1,), ("x",))


def compiled(mesh, directory, monkeypatch, H, mask, modifiers=lambda x: {}, shapes=(), rate=0.0):
    """For each kernel (spilled bytes, registers, shared memory, wgmma instructions)."""
    monkeypatch.setenv("MOSAIC_GPU_DUMP_TO", str(directory))
    # Before the mesh is set: sorting tiles is a computation, and there is no device for it.
    block = None if mask is None else BlockMask.from_mask(mask, B, N, T, T, block_size=128)
    plain = {
        "mask": block, "bias": None, "scale": None, "softcap": None, "score_mod": None,
        "sinks": None, "is_causal": False,
    }  # fmt: skip

    def run(q, k, v, d_out, captured, key):
        def attend(q, k, v, captured):
            settings = scoring((B, N, T, T), **plain | modifiers(captured))
            dropout = (rate, key) if rate else ()
            return mosaic_gpu.attend(q, k, v, settings, *dropout, staged=False)[0]

        out, pull = jax.vjp(attend, q, k, v, captured)
        return out, pull(d_out)

    here = NamedSharding(mesh, PartitionSpec())
    arrays = [
        jax.ShapeDtypeStruct((B, T, heads, H), jnp.bfloat16, sharding=here)
        for heads in (N, K, K, N)
    ]
    captured = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=here) for shape in shapes]
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=here)
    with jax.set_mesh(mesh):
        jax.jit(run).lower(*arrays, captured, key).compile()
    kernels = []
    for assembly in directory.glob("*.ptx"):
        said = assembly.with_suffix(".ptxas").read_text()
        resources = assembly.with_suffix(".resources.txt").read_text()
        numbers = (
            re.search(pattern, text)
            for pattern, text in (
                (r"(\d+) bytes spill stores", said),
                (r"Used (\d+) registers", said),
                (r"smem_scratch_bytes=(\d+)", resources),
            )
        )
        found = [int(number[1]) for number in numbers if number]
        kernels.append((*found, assembly.read_text().count("wgmma.mma_async")))
    return kernels


@pytest.mark.parametrize(
    ("H", "mask", "spills"),
    [
        (64, masks.causal(), 0),
        (128, None, 0),
        # The gradients of k and v fill the registers: a few words of the mask's loop do not fit.
        (128, masks.causal(), 48),
    ],
)
def test_fits_registers_and_shared_memory(mesh, tmp_path, monkeypatch, H, mask, spills):
    kernels = compiled(mesh, tmp_path, monkeypatch, H, mask)
    assert len(kernels) == 3  # forward, dq, and dk with dv
    for spilled, registers, memory, products in kernels:
        assert spilled <= spills
        assert registers <= 168  # of 3 x 128 threads; warpgroups then trade them
        assert memory < SHARED_MEMORY
        assert products > 0


def relative(x):
    table, by_key = x
    table = score_mods.t5_bias(table, bidirectional=False)
    return {"score_mod": table.then(lambda s, b, n, q, k: s * by_key[n, k]), "softcap": 9.0}


@pytest.mark.parametrize(
    ("H", "modifiers", "shapes", "rate", "count"),
    [
        # The fourth kernel is the table's gradient.
        (64, relative, [(N, 32), (N, T)], 0.1, 4),
        (128, lambda x: {"bias": x[0]}, [(1, 1, T, T)], 0.0, 3),
    ],
)
def test_gradients_of_captured_arrays_fit(
    mesh, tmp_path, monkeypatch, H, modifiers, shapes, rate, count
):
    kernels = compiled(mesh, tmp_path, monkeypatch, H, None, modifiers, shapes, rate)
    assert len(kernels) == count
    for spilled, registers, memory, products in kernels:
        assert spilled <= (0 if H == 64 else 48)
        assert registers <= 168
        assert memory < SHARED_MEMORY
        assert products > 0
