"""The climate of the tests: strict promotion, checked shapes, no network, no leftovers."""

import gc
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports jax or datasets; child processes inherit these.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# Single operations on arrays make most programs: one read costs half as much as one compiled.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Nobody looks for the line of ours that an instruction of XLA comes from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

# Nearly all of the tests' time is compilation of programs that run once on a few numbers: let XLA
# hurry, five times as fast with all settings. Newer versions no longer know the last one. A program
# that is not split is compiled by one thread in three quarters of the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
HURRY = "--xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib") < "0.11":
    os.environ.setdefault("XLA_FLAGS", f"{HURRY} --xla_cpu_use_fusion_emitters=false")
else:
    os.environ.setdefault("XLA_FLAGS", HURRY)
    # Warpgroups of an interpreted GPU kernel wait for one another in threads of XLA's pool. It has
    # one for each core, and two are too few: they wait forever.
    os.environ.setdefault("NPROC", "16")

import jax
import jaxtyping
from jax._src.interpreters import partial_eval

# Tracing makes millions of small objects that live on in caches; looking at each again and again
# takes a twentieth of the time.
gc.set_threshold(50_000, 20, 20)

# Flax asks each traced key for its sharding, and jax composes a long story of the key before
# it says that there is none: a quarter of the time in which a model is traced.
if hasattr(partial_eval.DynamicJaxprTracer, "_origin_msg"):
    partial_eval.DynamicJaxprTracer._origin_msg = lambda self: ""

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Every annotated function of ours checks its shapes; users never pay for it.
jaxtyping.install_import_hook(["attnzoo", "gallery_pictures"], "beartype.beartype")


# The files that take longest, longest first: one that begins last would keep one worker waiting.
LONG = (
    "test_products",
    "test_settings",
    "test_transformer",
    "test_contract",
    "test_library_call",
    "test_external",
    "test_faults",
    "test_tasks",
    "test_mesh_training",
    "test_processes",
    "test_explain_text",
    "test_swap",
    "test_run",
    "test_loop",
    "test_export",
    "test_planning",
    "test_sharded",
    "test_parameters",
    "test_linear_attention",
)


def _place(item: pytest.Item) -> int:
    name = item.path.stem
    return LONG.index(name) if name in LONG else len(LONG)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; skip tests marked ``gpu`` where jax has no GPU."""
    items.sort(key=_place)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and jax.default_backend() != "gpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="jax sees no GPU"))


@pytest.fixture
def x64() -> Iterator[None]:
    """Switch jax to 64-bit types for one test: for float64 oracles and gradient checks."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compile as for users: in a hurry, XLA:CPU makes NaN of some gradients of convolutions."""
    hurry = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", hurry)


@pytest.fixture(scope="session")
def on_eight_devices() -> Callable[..., Any]:
    """Run a test file as a program that sees eight devices on the CPU: what its last line says."""

    def run(file: str, *arguments: str) -> Any:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
        done = subprocess.run(
            [sys.executable, file, *arguments],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def printed_elsewhere() -> Callable[..., set[str]]:
    """What a program prints that imports from a folder, in two processes that hash strings
    differently.
    """

    def run(program: str, folder: Path) -> set[str]:
        path = os.pathsep.join([str(folder), str(ROOT)])
        return {
            subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                check=True,
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": path},
            ).stdout
            for seed in ("1", "2")
        }

    return run


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root directory."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of shared data sets beside the repository; without it the test is skipped."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip(f"no shared data at {path}")
    return path
