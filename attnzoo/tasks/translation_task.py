"""Translation task: sentence pairs, tokenizers, a translator, and plots of alignments."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnzoo import plotting
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.decoding.rules import DEFAULT_RULES, Rules
from attnzoo.errors import UserError
from attnzoo.special_tokens import PAD
from attnzoo.tasks.guided import alignment_loss, guide
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.pair_task import PairTask
from attnzoo.tasks.task import Batch
from attnzoo.tasks.text_generator import rules_of
from attnzoo.tasks.translation import Translator, translation_loss


class TranslationTask(PairTask):
    """Translation between the two sides of a parallel corpus."""

    @classmethod
    def teacher_of(cls, config: ExperimentConfig) -> Any | None:
        """Return the settings of the teacher of a guided head; None without one."""
        task: Any = config.task
        return None if task.guided is None else task.guided.teacher

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the translator of the config; its weights are those of the guided layer, if any."""
        model: Any = super().model(rngs)
        if self.settings.guided is None:
            return model
        if len(self.tokenizers.source.frames["source"].before) or model.config.padding != PAD:
            raise ValueError(
                "guided: not with the special tokens of a pretrained folder; wanted tokenizers "
                "that are trained here"
            )
        if self.settings.guided.module and getattr(
            self.config.training.optimizer, "weight_decay", 0
        ):
            raise ValueError(
                f"guided.module={self.settings.guided.module}: weight decay would change the "
                "translator, which stays as it is; wanted training.optimizer=adam"
            )
        return guide(model, self.settings.guided, rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the ``translation_loss`` with the settings of the config, and the guided head's.

        The alignment loss is that of training batches, whose teacher is known. It is the only one
        of an alignment module.
        """
        settings, guided = self.config.training, self.settings.guided
        how: dict[str, Any] = {
            "label_smoothing": settings.label_smoothing,
            "per": settings.loss_per,
            "rngs": rngs,
            "pad": self.config.model.padding,
        }
        if guided is None or rngs is None:
            return translation_loss(model, batch, **how)
        inputs = batch["source"], batch["target"][:, :-1]
        logits, weights = model(*inputs, rngs=rngs, return_weights=True)
        loss, sums = translation_loss(model, batch, logits=logits, **how)
        more, count = alignment_loss(weights, batch, guided, model.credits)
        sums |= {"alignment_nll": more, "aligned": count}
        if guided.module:  # the translator stays as it is
            loss = jnp.zeros_like(loss)
        return loss + guided.weight * more / jnp.maximum(count, 1.0), sums

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the scores, and in training the loss of the guided head per linked token."""
        scores = super().scores(sums)
        if "aligned" in sums:
            scores["alignment_loss"] = sums["alignment_nll"] / max(sums["aligned"], 1.0)
        return scores

    def translator(
        self,
        model: nnx.Module,
        *,
        batch_size: int | None = None,
        layer: int | None = None,
        head: int | None = None,
        rules: Rules = DEFAULT_RULES,
    ) -> Translator:
        """Return a translator with this task's tokenizers; arguments as in ``Translator``."""
        rules = rules_of(self.tokenizers.target) if rules == DEFAULT_RULES else rules
        guided = self.settings.guided
        if head is None and guided is not None and layer in (None, guided.layer):
            head = guided.head
        try:
            return Translator(
                model,
                self.tokenizers.source,
                self.tokenizers.target,
                batch_size=batch_size or self.config.decoding.batch_size,
                max_source=self.slots or max(512, 2 * self.config.training.max_length),
                layer=layer,
                head=head,
                rules=rules,
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
