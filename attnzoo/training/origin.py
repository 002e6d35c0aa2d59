"""Record of everything that determined a step, saved with it and compared when it is resumed."""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.loader import dump
from attnzoo.config.schema import plain
from attnzoo.errors import UserError
from attnzoo.tasks.task import Task
from attnzoo.training.fingerprint import check_fingerprint, first_difference
from attnzoo.training.manifest import CONFIG, Manifest, Sizes, changes, check_step, sizes_of_data
from attnzoo.training.run_directory import write_durably

# Keys that may differ when a run is resumed: length, logging and saving, decoding.
FREE = (
    "config.name",
    "config.directory",
    *(f"config.cache.{name}" for name in ("path", "workers", "tokenizer_sample")),
    "config.decoding",
    "config.start_fresh",
    *(
        f"config.training.{name}"
        for name in ("steps", "epochs", "patience", "evaluate_every", "checkpoint_every", "keep")
    ),
    *(f"config.training.{name}" for name in ("log_every", "figures_every", "figures")),
    *(f"config.training.{name}" for name in ("tensorboard", "profile", "max_skipped")),
)


class Origin:
    """Fingerprint of a training, and the manifest of its run directory.

    Attributes:
      fingerprint: config, data, batches, tokenizers, versions and devices.
      manifest: None before it is written, and in all processes but the first.
    """

    def __init__(
        self, config: ExperimentConfig, task: Task, manifest: Manifest | None, allow: Sequence[str]
    ):
        self.config, self.task, self.manifest, self.allow = config, task, manifest, allow
        self.fingerprint = {
            "config": plain(config),
            **task.fingerprint(),
            "versions": versions(),
            "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        }

    @property
    def meta(self) -> dict[str, Any]:
        """The entries of a step's dictionary: the fingerprint, and digests of the run's files."""
        files = self.manifest.files if self.manifest else {}
        return {"fingerprint": self.fingerprint, "files": files}

    def write(self, directory: Path, *, resume: bool) -> None:
        """Write the manifest, then the config, whose presence makes the directory a run.

        A resumed run keeps both; one of an older version gets its manifest.
        """
        if self.manifest is not None:
            return
        text = (directory / CONFIG).read_text("utf-8") if resume else dump(self.config)
        names = [file.name for file in self.task.run_files(self.config).values()]
        self.manifest = Manifest.of(directory, names, text, self._sizes_of_data())
        self.manifest.write(directory)
        if not resume:
            write_durably(directory / CONFIG, text)

    def check(self, directory: Path, meta: dict[str, Any]) -> None:
        """Raise a UserError if a saved step does not belong to this training."""
        # Some schedules end with the run: another length would change the learning rate.
        lengths = ("config.training.steps", "config.training.epochs")
        fixed = lengths if self.config.training.schedule.kind in ("cosine", "wsd") else ()
        free = [*(key for key in FREE if key not in fixed), *self.allow]
        check_step(directory, self.manifest, meta)
        saved, before = meta["fingerprint"], self.manifest.data if self.manifest else {}
        saved = saved | {"config": with_defaults(saved["config"], self.config)}
        different = first_difference(saved, self.fingerprint, free)
        cause = different[0].partition(".")[0] if different else ""
        changed = changes(before, self._sizes_of_data()) if before else []
        if changed and cause in ("data", "batches"):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"resume: the data is not that of the checkpoint: {', '.join(changed[:3])}{more}; "
                "restore it, or go on with other data: --allow data --allow batches"
            )
        check_fingerprint(saved, self.fingerprint, free)

    def _sizes_of_data(self) -> Sizes:
        rows = {report.name: report.read for report in self.task.reports}
        return sizes_of_data(self.config.data, rows)


def with_defaults(saved: dict[str, Any], config: Any) -> dict[str, Any]:
    """Return a saved config with the defaults of fields that an older version did not have."""
    filled = dict(saved)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in saved and value == field.default:
            filled[field.name] = plain(value)
        elif dataclasses.is_dataclass(value) and isinstance(saved.get(field.name), dict):
            filled[field.name] = with_defaults(saved[field.name], value)
    return filled


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the bits of a step."""
    return {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}
