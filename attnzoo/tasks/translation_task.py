"""Translation task: sentence pairs, tokenizers, a translator, and plots of alignments."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from attnzoo import plotting
from attnzoo.errors import UserError
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.pair_task import PairTask
from attnzoo.tasks.task import Batch
from attnzoo.tasks.translation import Translator, translation_loss


class TranslationTask(PairTask):
    """Translation between the two sides of a parallel corpus."""

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the ``translation_loss`` with the settings of the config."""
        settings = self.config.training
        return translation_loss(
            model,
            batch,
            label_smoothing=settings.label_smoothing,
            per=settings.loss_per,
            rngs=rngs,
        )

    def translator(
        self,
        model: nnx.Module,
        *,
        batch_size: int | None = None,
        layer: int | None = None,
        head: int | None = None,
    ) -> Translator:
        """Return a translator with this task's tokenizers; arguments as in ``Translator``."""
        try:
            return Translator(
                model,
                self.tokenizers.source,
                self.tokenizers.target,
                batch_size=batch_size or self.config.decoding.batch_size,
                max_source=self.slots or 512,
                layer=layer,
                head=head,
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    def glimpse(self, model: Any) -> tuple[str, plotting.Figure] | None:
        """Plot alignments of the first validation sentences; None if all are too long."""
        count = min(self.config.training.figures, len(self.held_out.source))
        translator = self.translator(model, batch_size=count)
        sources, targets = self.held_out.source[:count], self.held_out.target[:count]
        links = self.held_out.links or [None] * count
        pictures = [
            plotting.AlignmentPicture(
                translator.word_matrix(forced),
                forced.source.words,
                forced.target.words,
                reference,
            )
            for forced, reference in zip(translator.force(sources, targets), links, strict=False)
            if forced is not None
        ]
        return ("alignment", plotting.alignment_grid(pictures)) if pictures else None
