"""Folders of pretrained weights opened for use, with everything beside the weights."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnzoo import pretrained
from attnzoo.config.tasks import (
    CausalLMConfig,
)
from attnzoo.data.picture_preparation import PicturePreparation
from attnzoo.errors import UserError
from attnzoo.models.causal import CausalModel
from attnzoo.models.model import TranslationModel
from attnzoo.models.two_towers import TwoTowers
from attnzoo.models.vit import ViT
from attnzoo.pretrained import files
from attnzoo.tasks import task_class
from attnzoo.training import processes
from attnzoo.training.folder_settings import FolderSettings
from attnzoo.training.opened import Opened
from attnzoo.training.run_directory import RunDirectory

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Folder(Opened):
    """A folder of transformers, or one that ``convert`` wrote.

    Attributes:
      folder: where its files are; of a model of the hub, the hub's cache.
      preparation: how pictures are prepared; None for models of text.
      framed: function from a text to ids with the special tokens of its tokenizer.
      end_ids: tokens that end a generated text.
    """

    folder: Path = Path()
    preparation: PicturePreparation | None = None
    framed: Any = None
    end_ids: tuple[int, ...] = ()

    @property
    def source(self) -> Path:
        """Directory that holds tokenizers and class names."""
        return self.folder

    @property
    def description(self) -> str:
        """Description of the model, for messages."""
        return f"a folder of a {type(self.model).__name__} ({self.kind})"

    def prompt_ids(self, text: str) -> list[int]:
        """Return the ids of a text that the model continues, as its tokenizer begins it."""
        self.wanted(task_class(CausalLMConfig()))
        ids = self.framed(text)
        if not ids:
            path = self.directory.path
            raise UserError(f"{path}: no token begins a text; wanted a --prompt that is not empty")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; a model may have more than its tokenizer has tokens."""
        count = self.task.tokenizer.vocab_size
        return super().decode([i for i in ids if i < count])

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end a generated text."""
        return self.end_ids

    def picture(self, image: Any) -> Any:
        """Return a Pillow image as the folder's files prepare it."""
        if self.preparation is None:
            return super().picture(image)
        return self.preparation.pixels(image)


def open_folder(
    name: str | Path,
    *,
    source_language: str | None = None,
    target_language: str | None = None,
) -> Folder:
    """Open a folder of transformers or of ``convert``, or a name on the Hugging Face hub.

    ``source_language`` and ``target_language`` are codes of a translator of several languages; for
    T5, names as they stand in its prefix. For a Whisper the first is what is spoken, and with "en"
    for the second another language is translated. Settings of generation that are not followed are
    named in a warning.

    Raises:
      UserError: a file is missing or damaged, or a language unknown.
    """
    processes.require_devices()
    folder = files.resolve(name)
    model: Any = pretrained.load(folder)
    directory = RunDirectory(folder if Path(name).expanduser().is_dir() else _beside(str(name)))
    settings = FolderSettings(folder, model)
    asked = (source_language, target_language)
    if any(asked) and not isinstance(model, TranslationModel):
        raise UserError(f"{folder}: a {type(model).__name__} reads no language by its code")
    if isinstance(model, TranslationModel) and model.source_encoder is not None:
        found = settings.transcriber(*asked)
    elif isinstance(model, TranslationModel):
        found = settings.translator(*asked)
    elif isinstance(model, CausalModel):
        found = settings.language_model()
    elif isinstance(model, ViT):
        found = settings.images()
    elif isinstance(model, TwoTowers):
        found = settings.towers()
    else:
        found = settings.encoder()
    found |= {"folder": folder, "step": None, "which": "folder"}
    return Folder(directory=directory, model=model, **found)


def _beside(name: str) -> Path:
    """Return where the results of a model of the hub go."""
    return Path(name.replace("/", "--")).resolve()
