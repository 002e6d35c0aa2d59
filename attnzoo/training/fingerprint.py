"""Comparison of a resumed run's fingerprint with that of the saved run."""

import json
from collections.abc import Collection
from typing import Any

from attnzoo.errors import UserError
from attnzoo.ops.kernels.tiles import cores


def check_fingerprint(
    saved: dict[str, Any], current: dict[str, Any], allow: Collection[str] = ()
) -> None:
    """Compare everything that determines the computation, as saved and as it is now.

    Args:
      saved: nested dictionary from the checkpoint (seed, batch size, data hash, versions, ...).
      current: the same of the run to resume.
      allow: dotted keys that may differ; "data" allows all of "data.hash", "data.workers", ...

    Raises:
      UserError: a key differs, is new or is gone; the message names the first one.
    """
    different = first_difference(saved, current, allow)
    if different is not None:
        key, a, b = different
        raise UserError(
            f"resume: {key} was {a!r} when the checkpoint was saved and is {b!r} now; the run "
            f"would not be the same (to go on all the same, allow {key} to differ)"
        )


def notes_on_bits(saved: dict[str, Any], fingerprint: dict[str, Any]) -> list[str]:
    """Return a note for each count of devices or CPU cores that differs from the checkpoint's.

    A sum over another number of devices or threads has another order, and so other last bits. The
    cores matter where the model runs on a CPU; checkpoints of older versions do not tell them.

    Args:
      saved: dictionary from the checkpoint, with ``fingerprint`` and ``cores``.
      fingerprint: fingerprint of the run to resume.
    """
    before, now = saved["fingerprint"]["devices"], fingerprint["devices"]
    counts = {"devices": (before, now)}
    if before == now and now.endswith(" cpu"):
        counts = {"cores": (saved.get("cores", cores()), cores())}
    return [
        f"{name}: {old} before, {new} now; the last bits of the weights will differ from those of "
        "a run that was not interrupted"
        for name, (old, new) in counts.items()
        if old != new
    ]


def first_difference(
    one: dict[str, Any], other: dict[str, Any], allow: Collection[str] = ()
) -> tuple[str, Any, Any] | None:
    """Return the first dotted key whose values differ, and both values; None if there is none."""
    before, now = _dotted(one), _dotted(json.loads(json.dumps(other)))
    # Config keys first: they are the cause, other keys (the hash of the batches) the effect.
    for key in sorted(before.keys() | now.keys(), key=lambda key: (key[:7] != "config.", key)):
        a, b = before.get(key, "(absent)"), now.get(key, "(absent)")
        parts = key.split(".")
        if any(".".join(parts[: i + 1]) in allow for i in range(len(parts))):
            continue
        # NaN differs from itself; its text does not.
        if json.dumps(a) != json.dumps(b):
            return key, a, b
    return None


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _dotted(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
