"""The training loop: data, step, log, evaluate, save, in that order.

Everything a step needs is a function of its number: the batch (``BatchPlan``), the dropout key (the
seed folded with the step), the learning rate. A run that stops and goes on is therefore the run
that never stopped, bit by bit, on the same device count and versions.
"""

import dataclasses
import functools
import importlib.metadata
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from attnzoo import plotting
from attnzoo.config.attention import source_slots
from attnzoo.config.experiment import Experiment
from attnzoo.config.loader import dump
from attnzoo.config.schema import plain
from attnzoo.data.batching import BatchPlan, TokenizedPairs
from attnzoo.data.corpus import Corpus, load_corpus
from attnzoo.errors import UserError
from attnzoo.tasks.translation import Batch, Translator, translation_loss
from attnzoo.training.checkpoint import BestCheckpoint, CheckpointStore, restore
from attnzoo.training.fingerprint import check_fingerprint
from attnzoo.training.logging import RunLog
from attnzoo.training.optimizer import build_optimizer
from attnzoo.training.run import Tokenizers, build_model, longest_source
from attnzoo.training.run_directory import RunDirectory, write_durably
from attnzoo.training.signals import EXIT_STOPPED, StopSignal

State = dict[str, Any]  # params, rest, optimizer, step: pure dicts and tuples of arrays
Sums = dict[str, Float[Array, ""]]

# What may differ when a run goes on: how long, how often it looks and writes, how it translates.
FREE = (
    "config.name",
    "config.directory",
    "config.decoding",
    *(
        f"config.training.{name}"
        for name in ("steps", "epochs", "patience", "evaluate_every", "checkpoint_every", "keep")
    ),
    *(f"config.training.{name}" for name in ("log_every", "figures_every", "figures")),
    "config.training.tensorboard",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended: the reason in words, and the exit code of the process."""

    directory: Path
    step: int
    reason: str
    exit_code: int


def make_train_step(
    graph: nnx.GraphDef,
    transform: optax.GradientTransformation,
    loss: Callable[..., tuple[Float[Array, ""], Sums]],
    *,
    seed: int,
    compute_dtype: str = "float32",
) -> Callable[[State, Batch], tuple[State, Sums]]:
    """One update as a jitted function of the state and a batch; the state is donated.

    ``loss(model, batch, rngs=...)`` gives the loss and sums to be logged. Parameters and optimizer
    stay float32; ``compute_dtype`` is what the model computes in.
    """
    dtype = jnp.dtype(compute_dtype)

    def cast(x: Array) -> Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: State, batch: Batch) -> tuple[State, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])

        def objective(params):
            model = nnx.merge(graph, jax.tree.map(cast, params), state["rest"])
            return loss(model, batch, rngs=nnx.Rngs(dropout=key))

        (value, sums), gradient = jax.value_and_grad(objective, has_aux=True)(state["params"])
        updates, optimizer = transform.update(gradient, state["optimizer"], state["params"])
        new = {
            "params": optax.apply_updates(state["params"], updates),
            "rest": state["rest"],
            "optimizer": optimizer,
            "step": state["step"] + 1,
        }
        return new, {**sums, "loss": value, "gradient_norm": optax.tree.norm(gradient)}

    return train_step


def train(
    config: Experiment,
    *,
    resume: bool = False,
    allow: Sequence[str] = (),
) -> Outcome:
    """Train the model of a config into its run directory.

    Args:
        resume: go on from the newest valid checkpoint of that directory.
        allow: dotted keys of the fingerprint that may differ from the checkpoint's.

    Raises:
        UserError: whatever the person at the keyboard can mend, in one line.
    """
    directory = RunDirectory.create(config.run_directory, resume=resume)
    with directory.lock(), StopSignal() as stop:
        return _Training(config, directory, resume=resume, allow=allow).run(stop)


class _Training:
    """The pieces of one training, made in the order in which they depend on each other."""

    def __init__(
        self, config: Experiment, directory: RunDirectory, *, resume: bool, allow: Sequence[str]
    ):
        self.config, self.directory, self.allow = config, directory, allow
        settings = config.training
        # The store probes for write access: before the minutes that data may take.
        self.store = CheckpointStore(directory.checkpoints, keep=settings.keep)
        self.best = BestCheckpoint(directory.best)
        splits = load_corpus(config.data)
        self.notes = [line for report in splits.reports for line in report.lines()]
        if not len(splits.train.source) or not len(splits.validation.source):
            raise UserError("data: training needs a train and a validation part, one is empty")
        if resume and (directory.path / "source.tokenizer.json").exists():
            self.tokenizers = Tokenizers.load(directory.path)
        else:
            self.tokenizers = Tokenizers.train(config, splits.train)
            self.tokenizers.save(directory.path)
        pairs = self._tokenize(splits.train, "train", settings.max_length)
        self.plan = BatchPlan(pairs, settings.batch_size, settings.buckets, settings.seed)
        longest = 2 * settings.max_length
        room = source_slots(config.model.attention)
        if room is not None:
            if self.plan.buckets[-1] > room:
                raise UserError(
                    f"model.attention.max_length={room} is below {self.plan.buckets[-1]}, the "
                    "longest training sentence with its end: raise it or lower training.max_length"
                )
            longest = min(longest, room - 1)
        held_out = self._tokenize(splits.validation, "validation", longest)
        self.validation_plan = BatchPlan(held_out, settings.batch_size, shuffle=False)
        self.validation = splits.validation

        per_epoch = self.plan.steps_per_epoch
        limits = [settings.steps, settings.epochs and settings.epochs * per_epoch]
        self.total = min(limit for limit in limits if limit)
        self.evaluate_every = settings.evaluate_every or per_epoch
        self.checkpoint_every = settings.checkpoint_every or self.evaluate_every

        model = build_model(config, self.tokenizers)
        self.graph, params, rest = nnx.split(model, nnx.Param, ...)
        transform, self.schedule = build_optimizer(
            settings, total_steps=self.total, steps_per_epoch=per_epoch
        )
        params = nnx.to_pure_dict(params)
        self.state: State = {
            "params": params,
            "rest": nnx.to_pure_dict(rest),
            "optimizer": transform.init(params),
            "step": jnp.int32(0),
        }
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.fingerprint = {
            "config": plain(config),
            "data": splits.fingerprint(),
            "batches": self.plan.fingerprint(),
            "tokenizers": [
                self.tokenizers.source.fingerprint(),
                self.tokenizers.target.fingerprint(),
            ],
            "versions": {
                name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")
            },
            "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        }
        self.stale = 0  # evaluations since the best one
        self.best_nll = math.inf
        if resume:
            self._restore()
        self.start = self.saved = int(self.state["step"])
        if not resume:
            write_durably(directory.config, dump(config))
        loss = functools.partial(
            translation_loss, label_smoothing=settings.label_smoothing, per=settings.loss_per
        )
        self.step = make_train_step(
            self.graph,
            transform,
            loss,
            seed=settings.seed,
            compute_dtype=settings.compute_dtype,
        )
        self.measure = jax.jit(
            lambda params, rest, batch: translation_loss(
                nnx.merge(self.graph, params, rest), batch
            )[1]
        )

    def _restore(self) -> None:
        """Go on from the newest valid checkpoint, if it is one of this very training."""
        # A cosine ends where the run ends: another length would be another learning rate.
        lengths = ("config.training.steps", "config.training.epochs")
        fixed = lengths if self.config.training.schedule.kind == "cosine" else ()
        free = [*(key for key in FREE if key not in fixed), *self.allow]
        try:
            restored = self.store.restore_newest_valid(self.state)
        except UserError:
            # Weights of another shape: the key of the config says more than the parameter's name.
            saved = restore(self.directory.checkpoints).meta["fingerprint"]
            check_fingerprint(saved, self.fingerprint, free)
            raise
        if restored is not None:
            check_fingerprint(restored.meta["fingerprint"], self.fingerprint, free)
            self.state = restored.state
            self.stale, self.best_nll = restored.meta["stale"], restored.meta["best_nll"]

    def _tokenize(self, corpus: Corpus, part: str, max_length: int) -> TokenizedPairs:
        pairs, report = TokenizedPairs.from_corpus(
            corpus, self.tokenizers.source, self.tokenizers.target, max_length
        )
        if report.skipped:
            self.notes += report.lines()
        return pairs

    def run(self, stop: StopSignal) -> Outcome:
        settings = self.config.training
        step, reason, code = self.start, "all steps done", 0
        with (
            self.store,
            RunLog(
                self.directory.path,
                start=self.start,
                total=self.total,
                tensorboard=settings.tensorboard,
            ) as log,
        ):
            self._introduce(log)
            pending: list[tuple[int, Sums]] = []
            began = time.monotonic()
            while step < self.total:
                if settings.patience is not None and self.stale >= settings.patience:
                    reason = f"no better validation loss in {self.stale} evaluations"
                    break
                batch = self.plan.batch(step)
                self.state, sums = self.step(
                    self.state, {"source": batch["source"], "target": batch["target"]}
                )
                step += 1
                pending.append((step, sums))
                evaluates = step % self.evaluate_every == 0 or step == self.total
                stopping = stop.requested  # asked once: what is saved has been looked at
                saves = step % self.checkpoint_every == 0 or evaluates or stopping
                if len(pending) >= settings.log_every or saves:
                    self._log_steps(log, pending, began)
                    pending, began = [], time.monotonic()
                if evaluates:
                    self._evaluate(log, step)
                    began = time.monotonic()
                if saves:
                    self._save(step)
                self.store.poll()
                if stopping:
                    reason, code = f"stopped by {stop.name}, resume with --resume", EXIT_STOPPED
                    break
            if step > self.saved:
                self._save(step)
            self.store.wait()
            log.say(f"{reason}: step {step}, {self.directory.path}")
        return Outcome(self.directory.path, step, reason, code)

    def _introduce(self, log: RunLog) -> None:
        for note in self.notes:
            log.say(note)
        log.say(
            f"{len(self.plan.pairs)} pairs, {self.plan.steps_per_epoch} steps an epoch, "
            f"lengths {list(self.plan.buckets)}; vocabularies "
            f"{self.tokenizers.source.vocab_size} and {self.tokenizers.target.vocab_size}; "
            f"{self.parameters:,} parameters; {jax.devices()[0].device_kind}"
        )
        if self.start:
            log.say(f"resumed after step {self.start} of {self.total}")

    def _log_steps(self, log: RunLog, pending: list[tuple[int, Sums]], began: float) -> None:
        """Fetch the numbers of the steps since the last time, refuse what is not finite, report."""
        fetched = [(step, jax.device_get(sums)) for step, sums in pending]
        seconds = time.monotonic() - began  # only now are the steps computed, not just dispatched
        for step, sums in fetched:
            for name in ("loss", "gradient_norm"):
                self._refuse_nonfinite(name, float(sums[name]), step)
        step = fetched[-1][0]
        total = {name: float(sum(s[name] for _, s in fetched)) for name in ("nll", "tokens")}
        values = {
            "loss": float(np.mean([s["loss"] for _, s in fetched])),
            "nll": total["nll"] / max(total["tokens"], 1.0),
            "accuracy": float(sum(s["correct"] for _, s in fetched)) / max(total["tokens"], 1.0),
            "gradient_norm": float(np.mean([s["gradient_norm"] for _, s in fetched])),
            "learning_rate": float(np.asarray(self.schedule(step - 1))),
            "tokens_per_second": total["tokens"] / max(seconds, 1e-9),
            "epoch": step / self.plan.steps_per_epoch,
        }
        log.metrics(step, values, part="train")
        status = f"loss {values['loss']:.3f}  {values['tokens_per_second']:,.0f} tokens/s"
        log.progress(step, status, line=True)

    def _refuse_nonfinite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} at step {step}; the last good checkpoint is step {self.saved}. "
                "Lower training.learning_rate or set training.clip_norm"
            )

    def _evaluate(self, log: RunLog, step: int) -> None:
        """Validation loss, the best checkpoint, and now and then a picture of the alignment."""
        sums = [
            self.measure(
                self.state["params"],
                self.state["rest"],
                {"source": batch["source"], "target": batch["target"]},
            )
            for batch in self.validation_plan.batches()
        ]
        total = jax.tree.map(lambda *xs: float(sum(jax.device_get(xs))), *sums)
        nll = total["nll"] / max(total["tokens"], 1.0)
        self._refuse_nonfinite("validation loss", nll, step)
        values = {
            "nll": nll,
            "perplexity": math.exp(min(nll, 700.0)),
            "accuracy": total["correct"] / max(total["tokens"], 1.0),
        }
        log.metrics(step, values, part="validation")
        weights = {"params": self.state["params"], "rest": self.state["rest"]}
        self.best.offer(step, weights, nll, mode="min", meta=values)
        # Not what `offer` says: a resumed run meets bests that it had written before it died.
        better = nll < self.best_nll
        self.stale, self.best_nll = (0, nll) if better else (self.stale + 1, self.best_nll)
        log.say(
            f"validation at step {step}: loss {nll:.4f}, perplexity {values['perplexity']:.2f}, "
            f"next-token accuracy {values['accuracy']:.1%}{' (best)' if better else ''}"
        )
        every = self.config.training.figures_every
        if every and (step // self.evaluate_every) % every == 0:
            figure = self._alignment_figure()
            if figure is not None:
                log.figure(step, "alignment", figure)

    def _alignment_figure(self) -> plotting.Figure | None:
        """The first validation sentences; None where all of them are too long to be read."""
        count = min(self.config.training.figures, len(self.validation.source))
        model = nnx.merge(self.graph, self.state["params"], self.state["rest"])
        translator = Translator(
            model,
            self.tokenizers.source,
            self.tokenizers.target,
            batch_size=count,
            max_source=longest_source(self.config.model),
        )
        sources, targets = self.validation.source[:count], self.validation.target[:count]
        links = self.validation.links or [None] * count
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
        return plotting.alignment_grid(pictures) if pictures else None

    def _save(self, step: int) -> None:
        meta = {"fingerprint": self.fingerprint, "stale": self.stale, "best_nll": self.best_nll}
        self.store.save(step, self.state, meta)
        self.saved = step
