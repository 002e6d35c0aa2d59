"""The training loop: data, step, log, evaluate, save, in that order.

Everything a step needs is a function of its number: the batch (``BatchPlan``), the dropout key (the
seed folded with the step), the learning rate. An interrupted and resumed run is therefore equal
bit by bit to an uninterrupted one, on the same device count and versions.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.schema import plain
from attnzoo.data.ahead import Ahead
from attnzoo.data.order import MAX_BUCKETS
from attnzoo.errors import UserError
from attnzoo.ops.kernels.tiles import cores
from attnzoo.tasks.losses import Sums
from attnzoo.tasks.task import Batch, Plan, Task
from attnzoo.training import processes
from attnzoo.training.checkpoint import (
    BestCheckpoint,
    CheckpointStore,
    Restored,
    restore,
    save_shards,
)
from attnzoo.training.fingerprint import first_difference, notes_on_bits
from attnzoo.training.logging import NoLog, Profiler, RunLog
from attnzoo.training.manifest import open_run
from attnzoo.training.optimizer import build_optimizer
from attnzoo.training.origin import Origin, versions
from attnzoo.training.placement import Placement
from attnzoo.training.programs import Call, Programs
from attnzoo.training.run_directory import RunDirectory
from attnzoo.training.signals import EXIT_STOPPED, StopSignal
from attnzoo.training.start import create_task, inherit, start_from
from attnzoo.training.step import fresh_state, make_train_step

AnyLog = RunLog | NoLog

IN_FLIGHT = 4
"""Steps that may be computed at a time; more would only delay a stop, and hold their batches."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """End of a training: the reason in words, and the exit code of the process."""

    directory: Path
    step: int
    reason: str
    exit_code: int


def train(
    config: ExperimentConfig,
    *,
    resume: bool = False,
    allow: Sequence[str] = (),
) -> Outcome:
    """Train the model of a config into its run directory.

    Args:
        resume: resume from the newest valid checkpoint of that directory.
        allow: dotted keys of the fingerprint that may differ from the checkpoint's.

    Raises:
        UserError: an error that the user can fix, in one line.
    """
    processes.require_devices()
    _same_everywhere({"config": plain(config), "versions": versions()})
    notes: list[str] = []
    # A resumed run has its settings, and may outlive the run that it started from.
    if config.start_from is not None and (not resume or config.start_from.expanduser().exists()):
        config, notes = inherit(config)
    directory = RunDirectory(config.run_directory.expanduser().resolve())
    with contextlib.ExitStack() as stack:

        def take() -> None:
            RunDirectory.create(directory.path, resume=resume)
            stack.enter_context(directory.lock())

        processes.on_first(take)
        stop = stack.enter_context(StopSignal())
        training = _Training(config, directory, resume=resume, allow=allow)
        training.task.notes += notes
        return training.run(stop)


def _same_everywhere(fingerprint: dict[str, Any]) -> None:
    """Raise UserError if the processes have different settings, with the first key that differs."""
    first, error = processes.from_first(fingerprint), None
    different = first_difference(first, fingerprint)
    if different is not None:
        key, theirs, mine = different
        error = f"{key} is {mine!r} in process {jax.process_index()} and {theirs!r} in process 0"
    processes.raise_everywhere(error)


class _Training:
    """Parts of one training, created in the order in which they depend on each other."""

    def __init__(
        self,
        config: ExperimentConfig,
        directory: RunDirectory,
        *,
        resume: bool,
        allow: Sequence[str],
    ):
        self.config, self.directory = config, directory
        settings = config.training
        # The store checks write access first, before loading data, which may take minutes.
        self.store = processes.on_first(
            lambda: CheckpointStore(directory.checkpoints, keep=settings.keep)
        )
        self.best = BestCheckpoint(directory.best)
        manifest = processes.on_first(lambda: open_run(directory.path)[1]) if resume else None
        rows = settings.batch_size // settings.accumulate
        self.placement = Placement(config.mesh, rows=rows)
        self.task = self._create_task(resume)
        assert self.task.train is not None
        assert self.task.validation is not None
        self.plan, self.validation_plan = self.task.train, self.task.validation
        per_epoch = self.plan.steps_per_epoch
        self.total = settings.total_steps(per_epoch)
        self.evaluate_every = settings.evaluate_every or per_epoch
        self.checkpoint_every = settings.checkpoint_every or self.evaluate_every

        transform, self.schedule = build_optimizer(
            settings, total_steps=self.total, steps_per_epoch=per_epoch
        )
        self.graph, self.state, shardings = fresh_state(self.task, transform, self.placement)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state["params"]))
        self.origin = Origin(config, self.task, manifest, allow)
        _same_everywhere(self.origin.fingerprint)
        self.stale = 0  # evaluations since the best one
        self.best_score = math.inf, math.inf  # and the loss, which decides between equal scores
        if not (resume and self._restore()) and config.start_from is not None:
            self._start_from(config.start_from.expanduser())
        self.start = self.saved = int(self.state["step"])
        if processes.is_first():
            self.origin.write(directory.path, resume=resume)
        self.step = make_train_step(
            self.graph,
            transform,
            self.task.loss,
            seed=settings.seed,
            compute_dtype=settings.compute_dtype,
            accumulate=settings.accumulate,
            ema=settings.ema,
            shardings=shardings,
        )
        self.measure = jax.jit(
            lambda params, rest, batch: self.task.measure(
                nnx.merge(self.graph, params, rest), batch
            )
        )

    def _create_task(self, resume: bool) -> Task:
        """Create the task with its data; the first process writes files, then the others read."""
        path = self.directory.path
        # A run that began shorter keeps its buckets.
        saved = self.store.newest_meta() if resume and self.store else None
        most = processes.from_first(saved and saved.get("max_buckets", MAX_BUCKETS))
        create = functools.partial(create_task, self.config, path, max_buckets=most)
        task = processes.on_first(lambda: create(resume=resume))
        return create(resume=True) if task is None else task

    def _start_from(self, path: Path) -> None:
        """Take the initial weights from another run or a pretrained model."""
        fresh, new_head = self.config.start_fresh, self.task.new_head(path)
        params, notes = start_from(path, self.state["params"], new_head=new_head, fresh=fresh)
        self.state["params"] = params
        if self.config.training.ema is not None:
            self.state["ema"] = jax.tree.map(jnp.copy, params)
        self.task.notes += notes
        if processes.is_first():
            from attnzoo.pretrained.origin import keep_in_run

            keep_in_run(path, self.directory.path)

    def _restore(self) -> bool:
        """Restore the newest valid checkpoint, if it belongs to this training."""
        restored = self._newest_valid()
        if restored is None:
            return False
        self.state = restored.state
        self.task.notes += notes_on_bits(restored.meta, self.origin.fingerprint)
        self.stale = restored.meta["stale"]
        self.best_score = restored.meta["best_score"], restored.meta.get("best_loss", math.inf)
        return True

    def _newest_valid(self) -> Restored | None:
        """Restore the newest step that the first process finds valid, in all processes."""
        store = self.store
        check = functools.partial(self.origin.check, self.directory.path)
        if jax.process_count() == 1:
            assert store is not None
            return store.restore_newest_valid(self.state, check)
        found = processes.on_first(
            lambda: store.restore_newest_valid(check=check) if store else None
        )
        step = processes.from_first(found.step if found else None)
        return None if step is None else restore(self.directory.checkpoints, self.state, step)

    def run(self, stop: StopSignal) -> Outcome:
        settings = self.config.training
        step, reason, code = self.start, "all steps done", 0
        with (
            self.store or contextlib.nullcontext(),
            self._log() as log,
            self.placement.context(),
            self._batches(self.plan, self.start, self.total) as batches,
        ):
            self._introduce(log)
            programs = Programs(log.say)
            pending: list[tuple[int, Sums]] = []
            began = programs.clock()
            profiler = Profiler(settings.profile, self.directory.path / "profile")
            while step < self.total:
                if stop.heard and step == self.saved:
                    # Stopped during setup: nothing to save. Compiling the first step may take long.
                    reason, code = f"stopped by {stop.name}, resume with --resume", EXIT_STOPPED
                    break
                if settings.patience is not None and self.stale >= settings.patience:
                    reason = f"no better validation {self.task.best[0]} in {self.stale} evaluations"
                    break
                batch = self._inputs(next(batches))
                profiler.before(step)
                self.state, sums = programs(self._call(self.plan, batch))
                step += 1
                profiler.after(step, sums, log)
                pending.append((step, sums))
                if len(pending) > IN_FLIGHT:
                    jax.block_until_ready(pending[-1 - IN_FLIGHT][1])
                evaluates = step % self.evaluate_every == 0 or step == self.total
                stopping = stop.requested(step)  # asked once: a saved step has been checked
                saves = step % self.checkpoint_every == 0 or evaluates or stopping
                if len(pending) >= settings.log_every or saves:
                    self._log_steps(log, programs, pending, began)
                    pending, began = [], programs.clock()
                if evaluates:
                    self._evaluate(log, programs, step)
                    began = programs.clock()
                if saves:
                    self._save(step)
                if self.store is not None:
                    self.store.poll()
                if stopping:
                    reason, code = f"stopped by {stop.name}, resume with --resume", EXIT_STOPPED
                    break
            if step > self.saved:
                self._save(step)
            if self.store is not None:
                self.store.wait()
            log.say(f"{reason}: step {step}, {self.directory.path}")
        return Outcome(self.directory.path, step, reason, code)

    def _log(self) -> AnyLog:
        if not processes.is_first():
            return NoLog()
        return RunLog(
            self.directory.path,
            start=self.start,
            total=self.total,
            tensorboard=self.config.training.tensorboard,
        )

    def _inputs(self, batch: Mapping[str, np.ndarray]) -> Batch:
        return self.placement.batch(self.task.inputs(batch), self.config.training.batch_size)

    def _batches(self, plan: Plan, start: int, stop: int) -> Ahead:
        """Return the rows of the batches of these steps that this process needs."""
        rows = self.placement.rows(self.config.training.batch_size)
        return Ahead(plan, start, stop, rows)

    def _call(self, plan: Plan, batch: Batch) -> Call:
        """Return the call with a batch of the training plan, or of the validation plan."""
        buckets = getattr(plan, "buckets", ())
        targets = getattr(plan, "target_buckets", buckets)
        lengths = max(len(buckets), 1) * (len(targets) if targets != buckets else 1)
        if plan is self.plan:
            return Call("the step", self.step, (self.state, batch), lengths)
        params = self.state.get("ema", self.state["params"])
        rest = self.state["rest"]
        return Call("the validation", self.measure, (params, rest, batch), lengths)

    def _introduce(self, log: AnyLog) -> None:
        for note in (*self.task.notes, *self.placement.notes):
            log.say(note)
        log.say(
            f"{self.task.introduction()}; {self.parameters:,} parameters; "
            f"{jax.devices()[0].device_kind}"
        )
        if self.start:
            log.say(f"resumed after step {self.start} of {self.total}")

    def _log_steps(
        self, log: AnyLog, programs: Programs, pending: list[tuple[int, Sums]], began: float
    ) -> None:
        """Fetch the sums of the steps since the last call, refuse non-finite values, and log."""
        fetched = [(step, jax.device_get(sums)) for step, sums in pending]
        seconds = programs.clock() - began  # after device_get: steps are dispatched asynchronously
        for step, sums in fetched:
            for name in ("loss", "gradient_norm"):
                self._refuse_nonfinite(name, float(sums[name]), step)
        step = fetched[-1][0]
        names = [n for n in fetched[-1][1] if n not in ("loss", "gradient_norm", "weight")]
        total = {name: float(sum(s[name] for _, s in fetched)) for name in names}
        values = {
            "loss": float(np.mean([s["loss"] for _, s in fetched])),
            **self.task.scores(total),
            "gradient_norm": float(np.mean([s["gradient_norm"] for _, s in fetched])),
            "learning_rate": float(np.asarray(self.schedule(step - 1))),
            f"{self.task.unit}_per_second": total["count"] / max(seconds, 1e-9),
            "epoch": step / self.plan.steps_per_epoch,
        }
        log.metrics(step, values, part="train")
        unit = self.task.unit
        status = f"loss {values['loss']:.3f}  {values[f'{unit}_per_second']:,.0f} {unit}/s"
        log.progress(step, status, line=True, compiling=programs.waited)

    def _refuse_nonfinite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} at step {step}; the last good checkpoint is step {self.saved}. "
                "Lower training.learning_rate or set training.clip_norm"
            )

    def _evaluate(self, log: AnyLog, programs: Programs, step: int) -> None:
        """Compute validation scores, keep the best checkpoint, and sometimes plot an example."""
        params = self.state.get("ema", self.state["params"])
        plan = self.validation_plan
        with self._batches(plan, 0, plan.steps_per_epoch) as batches:
            sums = [programs(self._call(plan, self._inputs(batch))) for batch in batches]
        total = jax.tree.map(lambda *xs: float(sum(jax.device_get(xs))), *sums)
        scores = self.task.scores(total)
        name, mode = self.task.best
        self._refuse_nonfinite("validation loss", scores["nll"], step)
        log.metrics(step, scores, part="validation")
        weights = {"params": params, "rest": self.state["rest"]}
        first = processes.is_first()
        metric, loss = scores[name], scores["nll"]
        if processes.from_first(first and self.best.wants(metric, mode, loss)):
            if first:
                meta = {**scores, **self.origin.meta}
                self.best.offer(step, weights, metric, mode=mode, meta=meta, loss=loss)
            else:
                save_shards(self.directory.best, step, weights)
        # Not the result of `offer`: a resumed run meets steps it had saved before it stopped.
        score = (metric if mode == "min" else -metric), loss
        better = score < self.best_score
        self.stale, self.best_score = (0, score) if better else (self.stale + 1, self.best_score)
        log.say(
            f"validation at step {step}: {self.task.describe(scores)}{' (best)' if better else ''}"
        )
        every = self.config.training.figures_every
        # A figure needs the whole model in one process.
        alone = jax.process_count() == 1
        if alone and every and (step // self.evaluate_every) % every == 0:
            seen = self.task.glimpse(nnx.merge(self.graph, params, self.state["rest"]))
            if isinstance(seen, str):
                log.say(seen)
            elif seen is not None:
                log.figure(step, *seen)

    def _save(self, step: int) -> None:
        meta = {**self.origin.meta, "cores": cores(), "stale": self.stale}
        meta |= {"best_score": self.best_score[0], "best_loss": self.best_score[1]}
        meta |= {"max_buckets": self.task.max_buckets}
        if self.store is None:
            save_shards(self.directory.checkpoints, step, self.state)
        else:
            # A background save would interleave its collectives with those of the step.
            self.store.save(step, self.state, meta, wait=jax.process_count() > 1)
        self.saved = step
