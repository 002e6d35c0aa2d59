"""What devices can do, as their makers publish it; and topologies to compile for without them.

Nothing here loads jax before it is asked to.
"""

import dataclasses
import functools
import os
import time
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
    """Of each device to the others."""
    source: str


# TPUs are asked for float32 products and compute them in bfloat16; Hopper in TF32.
DEVICES: dict[str, Device] = {
    "cpu": Device("cpu", "cpu", {}, 0.0, 0.0, 0.0, 1 << 30, 0.0, "measured here, now"),
    "v5e": Device(
        "TPU v5e",
        "tpu",
        {"bfloat16": 197e12, "float32": 197e12},
        memory=16e9,
        bandwidth=819e9,
        link=200e9,  # 400 GB/s both directions
        per_host=256,
        network=3.1e9,  # 6.4 Tbit/s of a pod of 256
        source="docs.cloud.google.com/tpu/docs/v5e",
    ),
    "v6e": Device(
        "TPU v6e",
        "tpu",
        {"bfloat16": 918e12, "float32": 918e12},
        memory=32e9,
        bandwidth=1638e9,
        link=400e9,  # 800 GB/s both directions
        per_host=256,
        network=12.5e9,  # 4 x 200 Gbit/s of a host of 8
        source="docs.cloud.google.com/tpu/docs/v6e",
    ),
    "h100": Device(
        "NVIDIA H100 SXM",
        "cuda",
        {"bfloat16": 989.4e12, "float32": 494.7e12},
        memory=80e9,
        bandwidth=3.35e12,
        link=450e9,  # NVLink: 900 GB/s both directions
        per_host=8,
        network=50e9,  # 400 Gbit/s each in a DGX H100
        source="NVIDIA H100 data sheet, DGX H100 data sheet",
    ),
    "h200": Device(
        "NVIDIA H200 SXM",
        "cuda",
        {"bfloat16": 989.4e12, "float32": 494.7e12},
        memory=141e9,
        bandwidth=4.8e12,
        link=450e9,
        per_host=8,
        network=50e9,
        source="NVIDIA H200 data sheet, DGX H200 data sheet",
    ),
}
USABLE = 0.92
"""Share of a device's memory that a step may fill: the runtime and fragments take the rest."""

TPU_SLICES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
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
    """The device of that name; this CPU is measured, and shared by ``count`` devices.

    Raises:
      UserError: a name that is not in the table.
    """
    if name not in DEVICES:
        raise UserError(f"--device {name}: unknown; wanted one of {', '.join(DEVICES)}")
    return _this_cpu(count) if name == "cpu" else DEVICES[name]


def topology(name: str, count: int) -> list[Any] | str:
    """Devices to compile for, or why there are none."""
    import jax
    from jax.experimental import topologies

    device = DEVICES[name]
    if device.platform == "cpu":
        devices = jax.devices("cpu")
        return devices if len(devices) >= count else f"jax was started with {len(devices)} devices"
    settings: dict[str, Any]
    if device.platform == "tpu":
        fits = [shape for shape in TPU_SLICES if _size(shape) >= count]
        if not fits:
            return f"{count} devices are more than a pod"
        settings = {"topology_name": f"{name}:{fits[0]}"}
        if fits[0] == "1x1":
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


def _size(shape: str) -> int:
    first, second = map(int, shape.split("x"))
    return first * second


def first_line(error: Exception) -> str:
    """What is worth repeating of an error of XLA."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _this_cpu(count: int) -> Device:
    """This machine, cut into so many devices."""
    flops, bandwidth = (measured / count for measured in _measured())
    return dataclasses.replace(
        DEVICES["cpu"],
        flops={"float32": flops, "bfloat16": flops},
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count,
        bandwidth=bandwidth,
        link=bandwidth,
        network=bandwidth,
    )


@functools.cache
def _measured() -> tuple[float, float]:
    """Operations a second in a product of matrices, bytes a second in reading and writing."""
    import jax
    import jax.numpy as jnp

    n = 1024
    x, long = jnp.ones((n, n), jnp.float32), jnp.ones((1 << 24,), jnp.float32)
    product = _fastest(jax.jit(lambda x: x @ x), x)
    copy = _fastest(jax.jit(lambda x: x + 1), long)
    return 2 * n**3 / product, 2 * long.nbytes / copy


def _fastest(function: Any, x: Any) -> float:
    function(x).block_until_ready()
    times = []
    for _ in range(4):
        start = time.perf_counter()
        function(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)
