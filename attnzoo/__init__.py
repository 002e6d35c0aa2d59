"""A JAX/Flax model zoo of attention-based architectures, with the attention weights in view."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it, without an import
if TYPE_CHECKING:
    from pathlib import Path

    from attnzoo.training.opened import Opened

__version__ = "0.1.0"
__all__ = ["open"]


def open(  # noqa: A001
    path: str | Path,
    *,
    which: str = "best",
    source_language: str | None = None,
    target_language: str | None = None,
    weights: str | None = None,
) -> Opened:
    """Open a trained model with its tokenizers, settings of generation and class names.

    ``path`` is a run directory, a folder of transformers, one that ``convert`` wrote, or a name on
    the Hugging Face hub.

    Args:
      which: checkpoint of a run: "best" on validation, "latest", or "average", the mean of the
        weights of all checkpoints that ``training.keep`` kept.
      source_language, target_language: of a folder that translates several languages.
      weights: format of the weights: "float32", "bfloat16" (half the memory), "int8" (matrices
        with a float for each output channel, a quarter); as they are stored if None.

    Raises:
      UserError: one line that names the file or setting that is missing or does not fit.

    Example:
      translator = attnzoo.open("opus-mt-en-de").translator()
      (found,) = translator.translate(["A cat ."])
      print(found.text, translator.links(found))
    """
    from pathlib import Path

    from attnzoo.errors import UserError
    from attnzoo.tasks.run_file import is_run
    from attnzoo.training.inference_weights import with_weights_of

    home = Path(path).expanduser()
    unfinished = (home / "config.yaml").exists() and not any(home.glob("*.safetensors"))
    if is_run(home) or unfinished:
        from attnzoo.training.run import load_run

        if source_language or target_language:
            raise UserError(
                f"{path}: a run translates the languages that it was trained on; leave out "
                "source_language and target_language"
            )
        return with_weights_of(load_run(home, which=which), weights)
    known = (home / "config.json").exists() or (home / "config.yaml").exists()
    if home.is_dir() and not known:
        raise UserError(
            f"{path}: not a run directory (it has no config.yaml), and no folder of weights (it "
            "has no config.json)"
        )
    from attnzoo.training.folder import open_folder

    folder = open_folder(path, source_language=source_language, target_language=target_language)
    return with_weights_of(folder, weights)
