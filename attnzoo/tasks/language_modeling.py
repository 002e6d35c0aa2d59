"""Language modelling: the next token, masked tokens, spans that were cut out."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import Experiment
from attnzoo.data.corpus import Splits
from attnzoo.data.packing import PackPlan
from attnzoo.data.text import StreamPlan, TextCorpus, TokenizedText, load_text
from attnzoo.data.text_tokenizers import TextTokenizer, build_tokenizer, load_tokenizer
from attnzoo.errors import UserError
from attnzoo.models import DECODERS
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.task import Batch, Plan, Task

TOKENIZER = "tokenizer.json"


class TextTask(Task):
    """What tasks over running text share: one tokenizer, documents as ids."""

    unit = "tokens"

    def __init__(self, config: Experiment, tokenizer: TextTokenizer):
        super().__init__(config)
        self.tokenizer = tokenizer
        self.counts: dict[str, int] = {}

    @classmethod
    def open(cls, config: Experiment, directory: Path) -> "TextTask":
        """The tokenizer of a run."""
        return cls(config, load_tokenizer(directory / TOKENIZER))

    @classmethod
    def create(cls, config: Experiment, directory: Path, *, resume: bool) -> "TextTask":
        """Read the text, train a tokenizer on it, or read that of the run."""
        splits: Splits[TextCorpus] = load_text(config.data)
        if not len(splits.train) or not len(splits.validation):
            raise UserError(
                "data: training needs a train and a validation part, one is empty "
                "(data.validation_share=0.1 cuts one off)"
            )
        tokenizer = kept_tokenizer(config, directory, splits.train.documents, resume=resume)
        task = cls(config, tokenizer)
        task.notes = [line for report in splits.reports for line in report.lines()]
        task.data_fingerprint = splits.fingerprint()
        parts = {
            part: TokenizedText.from_documents(getattr(splits, part).documents, tokenizer)
            for part in ("train", "validation", "test")
            if len(getattr(splits, part))
        }
        task.counts = {part: len(text.ids) for part, text in parts.items()}
        task.train = task.plan(parts["train"], shuffle=True)
        task.validation = task.plan(parts["validation"], shuffle=False)
        task.test = task.plan(parts["test"], shuffle=False) if "test" in parts else None
        return task

    def plan(self, text: TokenizedText, *, shuffle: bool) -> Plan:
        """The batches of one part."""
        raise NotImplementedError(f"{type(self).__name__}.plan")

    def introduction(self) -> str:
        """Tokens and vocabulary."""
        assert self.train is not None
        return (
            f"{self.counts['train']:,} tokens to train on and {self.counts['validation']:,} to "
            f"validate on, {self.train.steps_per_epoch} steps an epoch; vocabulary of "
            f"{self.tokenizer.vocab_size} ({self.tokenizer.kind})"
        )

    def fingerprint(self) -> dict[str, Any]:
        """Also the tokenizer's."""
        return super().fingerprint() | {"tokenizer": self.tokenizer.fingerprint()}


def kept_tokenizer(
    config: Experiment, directory: Path, texts: Any, *, resume: bool
) -> TextTokenizer:
    """The tokenizer of a run: read where the run goes on, else made and written."""
    path = directory / TOKENIZER
    if resume and path.exists():
        return load_tokenizer(path)
    tokenizer = build_tokenizer(config.tokenizer, texts)
    tokenizer.save(path)
    return tokenizer


class CausalLMTask(TextTask):
    """The next token of a text; validation reads every token once."""

    def plan(self, text: TokenizedText, *, shuffle: bool) -> Plan:
        """Windows of one stream, or packed documents."""
        settings, context = self.config.training, self.settings.context
        if self.settings.rows == "packed":
            return PackPlan(
                text,
                settings.batch_size,
                context,
                begin=self.tokenizer.special("bos"),
                end=self.tokenizer.special("eos"),
                seed=settings.seed,
                shuffle=shuffle,
                pad_id=self.tokenizer.pad_id,
            )
        separator = self.tokenizer.special("eos") if len(text) > 1 else None
        return StreamPlan(
            text.stream(separator),
            settings.batch_size,
            context,
            settings.seed,
            shuffle=shuffle,
            pad_id=self.tokenizer.pad_id,
        )

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The decoder of the config."""
        model: Any = DECODERS[self.config.model.kind]
        room = getattr(self.config.model, "max_length", None)
        context = self.settings.context
        if room is not None and room < context:
            raise ValueError(f"max_length={room} is below task.context={context}")
        return model(self.config.model, self.tokenizer.vocab_size, rngs=rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Cross-entropy of the next token, mean over tokens."""
        packed = {name: batch[name] for name in ("documents", "positions") if name in batch}
        logits = model(batch["tokens"], rngs=rngs, **packed)
        smoothing = self.config.training.label_smoothing if rngs is not None else 0.0
        return mean_loss(
            logits, jnp.asarray(batch["targets"]), jnp.asarray(batch["counted"]), smoothing
        )

    def glimpse(self, model: Any) -> str | None:
        """What the model writes, sampled."""
        from attnzoo.decoding.generate import generate

        prompt = np.asarray([[self.tokenizer.special("bos")]], np.int32)
        found = generate(model, prompt, max_new_tokens=100, temperature=0.8, seed=0)
        return self.tokenizer.decode(np.asarray(found.tokens[0, 0]))
