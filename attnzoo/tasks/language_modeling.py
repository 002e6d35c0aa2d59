"""Language modelling tasks: next token, masked tokens, span corruption."""

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.data.masking import MaskedPlan, SpanPlan
from attnzoo.data.packing import PackPlan
from attnzoo.data.text import StreamPlan, TokenizedText
from attnzoo.data.text_data import TextData
from attnzoo.data.text_tokenizers import TextTokenizer
from attnzoo.decoding.generate import generate
from attnzoo.decoding.sampling import Sampling
from attnzoo.models import model_class
from attnzoo.tasks.losses import Sums, mean_loss
from attnzoo.tasks.run_file import TOKENIZER
from attnzoo.tasks.task import Batch, Plan, Task


class TextTask(Task):
    """Base class of tasks over running text: one tokenizer, documents as ids."""

    unit = "tokens"
    files = types.MappingProxyType({"tokenizer": TOKENIZER})
    tokenizer_fields = ("tokenizer",)

    def __init__(self, config: ExperimentConfig, tokenizer: TextTokenizer):
        super().__init__(config)
        self.tokenizer = tokenizer
        self.counts: dict[str, int] = {}
        self.opening = tokenizer.specials.get("bos", tokenizer.pad_id)

    @classmethod
    def read(cls, config: ExperimentConfig) -> TextData:
        """Return the text, which is read when it is wanted."""
        return TextData(config.data, config.cache)

    @classmethod
    def has(cls, data: TextData, part: str) -> bool:
        """Return whether a part has documents."""
        return data.has(part)

    @classmethod
    def learn(cls, config: ExperimentConfig, data: Any, known: dict[str, Any]) -> dict[str, Any]:
        """Train the tokenizer on the text, unless it is known."""
        return known or {"tokenizer": data.tokenizer(config.tokenizer)}

    def take(self, data: TextData) -> None:
        """Tokenize the parts and make their plans."""
        parts = {
            part: data.tokens(part, self.tokenizer, self.separator)
            for part in ("train", "validation", "test")
            if data.has(part)
        }
        self.data_fingerprint = data.fingerprint()
        if len(parts["validation"].ids) and self.config.task.kind == "causal_lm":
            self.opening = int(parts["validation"].ids[0])
        self.counts = {part: int(text.lengths().sum()) for part, text in parts.items()}
        self.train = self.plan(parts["train"], shuffle=True)
        self.validation = self.plan(parts["validation"], shuffle=False)
        self.test = self.plan(parts["test"], shuffle=False) if "test" in parts else None

    def open_part(self, data: TextData, part: str) -> Plan:
        """Return the batches of one part, each of its tokens once."""
        text = data.tokens(part, self.tokenizer, self.separator)
        self.data_fingerprint = data.fingerprint(part)
        return self.plan(text, shuffle=False)

    @property
    def separator(self) -> int | None:
        """Token after each document of a stream; None for documents that are packed."""
        return self.tokenizer.special("eos")

    def plan(self, text: TokenizedText, *, shuffle: bool) -> Plan:
        """Return the batches of one part."""
        raise NotImplementedError(f"{type(self).__name__}.plan")

    def introduction(self) -> str:
        """Describe the number of tokens and the vocabulary."""
        assert self.train is not None
        return (
            f"{self.counts['train']:,} tokens to train on and {self.counts['validation']:,} to "
            f"validate on, {self.train.steps_per_epoch} steps an epoch; vocabulary of "
            f"{self.tokenizer.vocab_size} ({self.tokenizer.kind})"
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the task's fingerprint with that of the tokenizer."""
        return super().fingerprint() | {"tokenizer": self.tokenizer.fingerprint()}


class CausalLMTask(TextTask):
    """Next-token prediction; validation reads every token once."""

    @property
    def separator(self) -> int | None:
        """EOS, or None for packed documents, which have it from the plan."""
        return None if self.settings.rows == "packed" else self.tokenizer.special("eos")

    def plan(self, text: TokenizedText, *, shuffle: bool) -> Plan:
        """Return windows of one stream, or packed documents."""
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
        return StreamPlan(
            text.stream(self.separator if len(text) > 1 else None),
            settings.batch_size,
            context,
            settings.seed,
            shuffle=shuffle,
            pad_id=self.tokenizer.pad_id,
        )

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the decoder of the config."""
        model = model_class(self.config.model)
        room = self.config.model.longest
        context = self.settings.context
        if room is not None and room < context:
            raise ValueError(f"max_length={room} is below task.context={context}")
        return model(self.config.model, self.tokenizer.vocab_size, rngs=rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the cross-entropy of the next token, mean over tokens."""
        packed = {name: batch[name] for name in ("documents", "positions") if name in batch}
        logits = model(batch["tokens"], rngs=rngs, **packed)
        smoothing = self.config.training.label_smoothing if rngs is not None else 0.0
        return mean_loss(
            logits, jnp.asarray(batch["targets"]), jnp.asarray(batch["counted"]), smoothing
        )

    def glimpse(self, model: Any) -> str | None:
        """Sample a continuation of the first token of the validation text."""
        prompt = jnp.int32([[self.opening]])
        room = min(200, (self.config.model.longest or 200) - 1)
        sampling = Sampling(temperature=0.8)
        written = generate(model, prompt, jax.random.key(0), max_new_tokens=room, sampling=sampling)
        return self.tokenizer.decode(np.asarray(written.tokens[0, 0]))


class MaskedLMTask(TextTask):
    """Masked language modelling over windows of a text (Devlin et al. 2019, section 3.1).

    Only the states of masked tokens go through the output layer, which is most of the cost of a
    small BERT: about ``share`` of a batch.
    """

    @property
    def separator(self) -> int | None:
        """SEP after each document."""
        return self.tokenizer.special("sep")

    def plan(self, text: TokenizedText, *, shuffle: bool) -> Plan:
        """Return windows between CLS and SEP with tokens masked."""
        settings, task = self.config.training, self.settings
        windows = StreamPlan(
            text.stream(self.separator if len(text) > 1 else None),
            settings.batch_size,
            task.context - 2,
            settings.seed,
            shuffle=shuffle,
            pad_id=self.tokenizer.pad_id,
        )
        return MaskedPlan(
            windows,
            self.tokenizer,
            settings.seed,
            share=task.share,
            whole_words=task.whole_words,
        )

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the encoder of the config with the masked-token head."""
        config = dataclasses.replace(self.config.model, head="lm")
        model = model_class(config)
        return model(config, self.tokenizer.vocab_size, rngs=rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the cross-entropy of the masked tokens, mean over them."""
        tokens, counted = jnp.asarray(batch["tokens"]), jnp.asarray(batch["counted"])
        states, _ = model.states(tokens, valid=jnp.asarray(batch["valid"]), rngs=rngs)
        # Masked positions first; the number of slots covers every row's share after rounding.
        T = tokens.shape[1]
        most = min(int(np.ceil(T * self.settings.share)) + 1, T)
        _, places = jax.lax.top_k(counted.astype(jnp.float32), most)
        states = jnp.take_along_axis(states, places[..., None], axis=1)
        labels, counted = (
            jnp.take_along_axis(array, places, axis=1)
            for array in (jnp.asarray(batch["labels"]), counted)
        )
        smoothing = self.config.training.label_smoothing if rngs is not None else 0.0
        return mean_loss(model.say(states, rngs=rngs), labels, counted, smoothing)


class SpanCorruptionTask(TextTask):
    """Span corruption: predict spans cut out of windows of a text (Raffel et al. 2020)."""

    def plan(self, text: TokenizedText, *, shuffle: bool) -> Plan:
        """Return windows with sentinels in place of spans, and the spans after their sentinels."""
        settings, task = self.config.training, self.settings
        return SpanPlan(
            text.stream(self.separator if len(text) > 1 else None),
            self.tokenizer,
            settings.batch_size,
            task.context,
            settings.seed,
            shuffle=shuffle,
            share=task.share,
            mean_span=task.mean_span,
        )

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the encoder and decoder of the config, over the tokenizer's vocabulary."""
        size, pad, end = self.tokenizer.vocab_size, self.tokenizer.pad_id, "eos"
        ids = {"pad_id": pad, "start_id": self.opening, "eos_id": self.tokenizer.special(end)}
        config = self.config.model.with_ids(**ids)
        return model_class(config)(config, size, size, rngs=rngs)

    def loss(
        self, model: Any, batch: Batch, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the cross-entropy of the target, mean over its tokens."""
        target = jnp.asarray(batch["target"])
        # Not by the padding token, which may be another one's too.
        valid = jnp.asarray(batch["source_valid"])
        source = jnp.asarray(batch["source"])
        logits = model(source, target[:, :-1], source_valid=valid, rngs=rngs)
        smoothing = self.config.training.label_smoothing if rngs is not None else 0.0
        return mean_loss(logits, target[:, 1:], jnp.asarray(batch["counted"]), smoothing)
