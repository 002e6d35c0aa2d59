"""Parts of a transformers folder that no model here computes with, kept from load to save."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnzoo.files import read_json
from attnzoo.pretrained import files
from attnzoo.pretrained.fields import COMMON, Fields

GENERATION = "generation_config.json"
OWN = "transformers.json"
"""File of the former config.json in a folder of attnzoo."""
_RENEWED = {
    name
    for reason, names in COMMON.items()
    for name in names.split()
    if reason.startswith(("record", "tensors"))
}
_OF_CLASSES = ("id2label", "label2id", "num_labels", "_num_labels", "problem_type")


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Settings and tensors of the folder that a model was read from.

    Attributes:
      config: its config.json.
      generation: its generation_config.json, None if it had none.
      tensors: its tensors that the model has no place for, such as BERT's next-sentence head.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any] | None = None
    tensors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, config: str, tensors: Mapping[str, np.ndarray]) -> "Origin":
        """Read the origin of a model from its folder, where ``config`` names the config.json."""
        found = [
            read_json(folder / name) if (folder / name).exists() else None
            for name in (config, GENERATION)
        ]
        return cls(found[0] or {}, found[1], tensors)

    def complete(self, written: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
        """Return a config.json with the fields of the former one that do not concern the model.

        These are token ids, settings of generation and training, and the names of the classes.
        """
        kept = {
            name: value
            for name, value in self.config.items()
            if name in fields.without_effect and name not in _RENEWED
        }
        names = self.config.get("id2label")
        if names and len(names) == len(written.get("id2label", names)):
            kept |= {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
        elif "id2label" in written:
            kept.pop("label2id", None)
        for part, (_, inner) in fields.parts.items():
            former = self.config.get(part)
            if isinstance(former, dict) and part in written:
                kept[part] = Origin(former).complete(written[part], inner)
        if self.tensors:
            kept["architectures"] = self.config["architectures"]
        return {**written, **kept}

    def write(self, folder: Path, config: str | None = None) -> None:
        """Write generation_config.json, and the former config.json under the name ``config``."""
        for name, value in ((config, self.config), (GENERATION, self.generation)):
            if name is not None and value:
                files.write_json(folder / name, dict(value))


def keep_in_run(source: Path, run: Path) -> None:
    """Write the token ids and settings of generation of ``source`` into a run that starts from it.

    ``source`` is a folder, or a run that started from one. Classes are those of the new run.
    """
    folder = files.resolve(source)
    name = next((one for one in (files.CONFIG, OWN) if (folder / one).exists()), None)
    if name is not None:
        former = Origin.read(folder, name, {})
        config = {key: one for key, one in former.config.items() if key not in _OF_CLASSES}
        dataclasses.replace(former, config=config).write(run, OWN)
