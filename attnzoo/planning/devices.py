"""Peaks of devices as their makers publish them, and devices to compile for that are not here.

Nothing in this file loads jax before it is asked to.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

from attnzoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class Device:
    """Peaks of one device, dense, in units and bytes a second; links count one direction."""

    name: str
    platform: str
    flops: dict[str, float]
    """Multiplications and additions a second by compute dtype, at jax's default precision."""
    memory: float
    bandwidth: float
    link: float
    """To its neighbours, all links together."""
    per_host: int
    """Devices that these links reach."""
    network: float
    """From each device to those of other hosts."""
    source: str


# TPUs are asked for float32 products and compute them in bfloat16; Hopper in TF32. Links are
# published as both directions together, twice what stands here.
DEVICES: dict[str, Device] = {
    "cpu": Device("cpu", "cpu", {}, 0.0, 0.0, 0.0, 1 << 30, 0.0, "measured here, now"),
    "v5e": Device(  # network: 6.4 Tbit/s of a pod of 256
        "TPU v5e", "tpu", {"bfloat16": 197e12, "float32": 197e12},
        memory=16e9, bandwidth=819e9, link=200e9, per_host=256, network=3.1e9,
        source="docs.cloud.google.com/tpu/docs/v5e",
    ),
    "v6e": Device(  # network: 4 x 200 Gbit/s of a host of 8
        "TPU v6e", "tpu", {"bfloat16": 918e12, "float32": 918e12},
        memory=32e9, bandwidth=1638e9, link=400e9, per_host=256, network=12.5e9,
        source="docs.cloud.google.com/tpu/docs/v6e",
    ),
    "h100": Device(  # network: 400 Gbit/s each in a DGX H100
        "NVIDIA H100 SXM", "cuda", {"bfloat16": 989.4e12, "float32": 494.7e12},
        memory=80e9, bandwidth=3.35e12, link=450e9, per_host=8, network=50e9,
        source="NVIDIA H100 data sheet, DGX H100 data sheet",
    ),
    "h200": Device(
        "NVIDIA H200 SXM", "cuda", {"bfloat16": 989.4e12, "float32": 494.7e12},
        memory=141e9, bandwidth=4.8e12, link=450e9, per_host=8, network=50e9,
        source="NVIDIA H200 data sheet, DGX H200 data sheet",
    ),
}  # fmt: skip
USABLE = 0.92
"""Share of a device's memory that a step may fill: the runtime and fragments take the rest."""

TPU_SLICES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16",
              256: "16x16"}  # fmt: skip
# Facts of Hopper that XLA chooses its kernels by.
HOPPER = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: {memory:.0f} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 name: "{name}"
  runtime_version: "13.0.0" driver_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""


def device_named(name: str, count: int) -> Device:
    """Return the device of that name; this CPU is measured, and shared by ``count`` devices.

    Raises:
      UserError: a name that is not in the table.
    """
    if name not in DEVICES:
        raise UserError(f"--device {name}: unknown; wanted one of {', '.join(DEVICES)}")
    device = DEVICES[name]
    if name != "cpu":
        return device
    flops, bandwidth = (measured / count for measured in _measured())
    return dataclasses.replace(
        device,
        flops={"float32": flops, "bfloat16": flops},
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count,
        **dict.fromkeys(("bandwidth", "link", "network"), bandwidth),
    )


def topology(name: str, count: int) -> list[Any] | str:
    """Return devices to compile for, or the reason why there are none."""
    import jax
    from jax.experimental import topologies

    device = DEVICES[name]
    if device.platform == "cpu":
        devices = jax.devices("cpu")
        return devices if len(devices) >= count else f"jax was started with {len(devices)} devices"
    settings: dict[str, Any]
    if device.platform == "tpu":
        shape = next((shape for size, shape in TPU_SLICES.items() if size >= count), None)
        if shape is None:
            return f"{count} devices are more than a pod"
        settings = {"topology_name": f"{name}:{shape}"}
        if shape == "1x1":
            settings["chips_per_host_bounds"] = [1, 1, 1]
    else:
        hosts = -(-count // device.per_host)
        target = HOPPER.format(
            name=device.name.removesuffix(" SXM"), memory=device.memory, bandwidth=device.bandwidth
        )
        here = count if hosts == 1 else device.per_host
        settings = {"target_config": target, "topology": f"1x{hosts}x{here}"}
    try:
        return list(topologies.get_topology_desc(platform=device.platform, **settings).devices)
    except (NotImplementedError, RuntimeError) as error:
        return f"no {device.platform} plugin of jax to compile with ({first_line(error)})"


def first_line(error: Exception) -> str:
    """Return the first line of an error of XLA, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@functools.cache
def _measured() -> tuple[float, float]:
    """Operations a second in a product of matrices, bytes a second in reading and writing."""
    import jax
    import jax.numpy as jnp

    def fastest(function: Callable[[Any], Any], x: Any) -> float:
        function = jax.jit(function)
        times = []
        for _ in range(5):  # the first one compiles
            start = time.perf_counter()
            function(x).block_until_ready()
            times.append(time.perf_counter() - start)
        return min(times)

    n = 1024
    x, long = jnp.ones((n, n), jnp.float32), jnp.ones((1 << 24,), jnp.float32)
    return 2 * n**3 / fastest(lambda x: x @ x, x), 2 * long.nbytes / fastest(lambda x: x + 1, long)
