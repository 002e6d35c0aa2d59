"""Training with several processes: connecting, agreeing on values, and stopping together.

Everything here uses JAX's distributed runtime; with one process nothing happens.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from attnzoo.errors import UserError

T = TypeVar("T")

SCHEDULERS = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "PMIX_NAMESPACE", "KUBERNETES_SERVICE_HOST")


def connect(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    heartbeat: int = 30,
    timeout: int = 120,
) -> None:
    """Connect to the other processes of a training; call this before jax lists its devices.

    Without arguments jax reads the scheduler's environment (Slurm, Open MPI, Kubernetes, a TPU
    pod). A process that sends no heartbeat for ``heartbeat`` seconds ends all of them.

    Raises:
      UserError: incomplete arguments, or no answer within ``timeout`` seconds.
    """
    given = {"--coordinator": coordinator, "--processes": count, "--process": index}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        present = ", ".join(name for name in given if name not in missing)
        raise UserError(f"{present} without {', '.join(missing)}: give all three, or none")
    if count is not None and index is not None and not 0 <= index < count:
        raise UserError(f"--process {index}: wanted 0 to {count - 1}, as --processes {count} says")
    if missing and not any(name in os.environ for name in SCHEDULERS) and not _on_tpu():
        raise UserError(
            "--distributed: no scheduler has set an environment that jax knows (Slurm, Open MPI, "
            "Kubernetes, a TPU pod); give --coordinator HOST:PORT --processes N --process I"
        )
    if (getattr(jax.config, "jax_platforms", None) or "").startswith("cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Gloo tells messages apart by their order, which programs that overlap would mix up.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat,
        )
    except (RuntimeError, ValueError, LookupError) as error:
        raise UserError(f"the processes did not meet: {str(error).splitlines()[0]}") from error


def _on_tpu() -> bool:
    return "TPU_WORKER_HOSTNAMES" in os.environ or Path("/dev/accel0").exists()


def require_devices() -> None:
    """Raise a UserError if there is no device of the kind that JAX_PLATFORMS asks for."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # without the plugin of cuda: an assertion
        reason = " ".join(str(error).split())[:200] or "jax has no such device here"
        raise UserError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {reason}; install jax for that "
            "device and its driver, or set JAX_PLATFORMS=cpu"
        ) from None


def is_first() -> bool:
    """Return whether this is the first process, which writes for all."""
    return jax.process_index() == 0


def from_first(value: Any) -> Any:
    """Broadcast a JSON value of the first process to every process."""
    if jax.process_count() == 1:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    padded = np.zeros(size, np.uint8)
    padded[: data.size] = data[:size]
    told = np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)
    return json.loads(told.tobytes().decode())


def on_first(action: Callable[[], T]) -> T | None:
    """Run an action in the first process while the others wait; all raise its UserError."""
    if jax.process_count() == 1:
        return action()
    result, failed = None, None
    if is_first():
        try:
            result = action()
        except UserError as error:
            failed = str(error)
    failed = from_first(failed)
    if failed is not None:
        raise UserError(failed)
    return result


def raise_everywhere(error: str | None) -> None:
    """Continue only if no process has an error; otherwise all raise UserError."""
    if jax.process_count() == 1:
        if error is not None:
            raise UserError(error)
        return
    wrong = np.asarray(multihost_utils.process_allgather(np.int32(error is not None))).reshape(-1)
    if error is not None:
        raise UserError(error)
    if wrong.any():
        who = ", ".join(str(index) for index in np.flatnonzero(wrong))
        raise UserError(f"process {who} cannot go on; what it says comes first")


def gather_to_first(x: jax.Array) -> np.ndarray:
    """Gather an array that is sharded over processes, on the host of the first process.

    The other processes get zeros of its shape that take no memory. All processes must call it.
    """
    if x.is_fully_replicated:
        value = np.asarray(x)
    else:
        value = np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return value if is_first() else np.broadcast_to(np.zeros((), value.dtype), value.shape)


def preempted(step: int) -> bool:
    """Return whether a process received SIGTERM, the same in all processes at the same step."""
    return multihost_utils.reached_preemption_sync_point(step)
