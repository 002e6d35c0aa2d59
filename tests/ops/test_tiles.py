"""The table of tile sizes: what is looked up, what is kept, and what a broken cache breaks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import ops
from attnzoo.ops.kernels import tiles as table
from attnzoo.ops.kernels.tiles import Entry, Tiles, entry_for, override_tiles, remember, tiles_for


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "attnzoo" / "tiles.json"


def test_the_nearest_entry_serves(monkeypatch):
    shipped = {
        Entry("mosaic_gpu", "any", "bfloat16", 64, 1024): Tiles(64, 64),
        Entry("mosaic_gpu", "NVIDIA H200", "bfloat16", 128, 16_384): Tiles(128, 64),
        Entry("mosaic_gpu", "NVIDIA H200", "float32", 64, 1024): Tiles(32, 32),
        Entry("mosaic_gpu", "NVIDIA A100", "bfloat16", 64, 1024): Tiles(16, 16),
        Entry("blockwise", "any", "float32", 64, 1024): Tiles(8, 8),
    }
    monkeypatch.setattr(table, "SHIPPED", shipped)
    # The device comes before the dtype, the dtype before sizes; of another device nothing is taken.
    assert tiles_for("mosaic_gpu", "NVIDIA H200", jnp.bfloat16, 64, 1024, 1024) == (128, 64)
    assert tiles_for("mosaic_gpu", "NVIDIA H200", jnp.float32, 256, 9, 70_000) == (32, 32)
    assert tiles_for("mosaic_gpu", "NVIDIA B200", jnp.float32, 59, 1024, 1024) == (64, 64)
    with pytest.raises(ValueError, match="implementation='mosaic_tpu' has no tiles"):
        tiles_for("mosaic_tpu", "TPU v6e", jnp.float32, 64, 1, 1)


def test_classes_are_powers_of_two():
    assert entry_for("x", "cpu", "float32", 59, 97, 1025) == ("x", "cpu", "float32", 64, 2048)
    assert entry_for("x", "cpu", jnp.bfloat16, 65, 3, 4)[2:] == ("bfloat16", 128, 256)
    assert entry_for("x", "cpu", "float32", 512, 1 << 20, 1)[3:] == (256, 131_072)


def test_what_is_remembered_is_found_again_on_this_device_only(cache):
    entry = Entry("blockwise", "cpu", "float32", 64, 2048)
    remember(entry, Tiles(96, 160))
    remember(entry._replace(device_kind="NVIDIA H200"), Tiles(1, 2))
    remember(entry._replace(length=256), Tiles(5, 6))
    assert tiles_for("blockwise", "cpu", "float32", 64, 2000, 2000) == (96, 160)
    assert tiles_for("blockwise", "NVIDIA H200", "float32", 64, 2000, 2000) == (1, 2)
    assert tiles_for("blockwise", "cpu", "float32", 64, 100, 100) == (5, 6)
    assert [path.name for path in cache.parent.iterdir()] == ["tiles.json"]
    groups = json.loads(cache.read_text())
    assert set(groups) == {f"{kind}, jax {jax.__version__}" for kind in ("cpu", "NVIDIA H200")}
    # Of another version of jax nothing is taken.
    cache.write_text(json.dumps({"cpu, jax 0.0.1": groups[f"cpu, jax {jax.__version__}"]}))
    assert tiles_for("blockwise", "cpu", "float32", 64, 2000, 2000) == (128, 128)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cpu": []}',
        '{"cpu": {"blockwise | float32 | 64": [1, 2, 3, 4]}}',
        '{"cpu": {"blockwise | float32 | 64 | 256": [128]}}',
        '{"cpu": {"blockwise | float32 | 64 | 256": [128, 0, 4, 2]}}',
        '{"cpu": {"blockwise | float32 | 64 | 256": "1234"}}',
    ],
)
def test_a_broken_cache_is_ignored_with_one_line(text, cache):
    cache.parent.mkdir()
    cache.write_text(text)
    with pytest.warns(
        UserWarning, match=r"tiles\.json is no table of tiles and is ignored"
    ) as seen:
        assert tiles_for("blockwise", "cpu", "float32", 64, 300, 300) == (128, 128)
    assert len(str(seen[0].message).splitlines()) == 1
    assert tiles_for("blockwise", "cpu", "float32", 64, 300, 300)  # and says so once
    with pytest.warns(UserWarning, match="ignored"):
        remember(Entry("blockwise", "cpu", "float32", 64, 512), Tiles(32, 48))
    assert tiles_for("blockwise", "cpu", "float32", 64, 300, 300) == (32, 48)


def test_tiles_in_use_change_no_result():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 150, 2, 8)), jnp.float32)

    def attention():
        return jax.jit(
            lambda x: ops.dot_product_attention(x, x, x, is_causal=True, implementation="blockwise")
        )

    wanted, text = attention()(x), attention().lower(x).as_text()
    with override_tiles("blockwise", Tiles(32, 64)):
        other = attention()
        assert "tensor<32x64xf32>" in other.lower(x).as_text()
        np.testing.assert_allclose(other(x), wanted, atol=1e-6)
    assert "tensor<32x64xf32>" not in text


def test_autotune_keeps_the_fastest(cache):
    x = jax.ShapeDtypeStruct((1, 300, 2, 8), jnp.float32)
    candidates = (Tiles(16, 16), Tiles(128, 128))
    found = ops.autotune(x, x, x, candidates=candidates, rounds=3)
    assert set(found) == set(candidates)
    assert list(found.values()) == sorted(found.values())
    assert tiles_for("blockwise", "cpu", "float32", 8, 300, 300) == next(iter(found))
    assert cache.exists()


def test_autotune_refuses(cache):
    x = jax.ShapeDtypeStruct((1, 300, 2, 8), jnp.float32)
    with pytest.raises(ValueError, match="implementation='reference' has no tiles; those that"):
        ops.autotune(x, x, x, implementation="reference")
    with pytest.raises(ValueError, match="none of 1 candidates compiles; the last: Tiles"):
        ops.autotune(x, x, x, candidates=[Tiles(0, 16)])
    assert not cache.exists()
