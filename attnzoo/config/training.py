"""Training settings: length, optimizer, schedule, evaluation and output."""

from typing import TYPE_CHECKING, Annotated, Literal

from attnzoo.config.fields import (
    DropRate,
    Interval,
    Kind,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    config,
)
from attnzoo.config.renamed import former_names


@config
class AdadeltaConfig:
    """Adadelta (Zeiler 2012); Bahdanau et al. 2015 use it with a learning rate of 1."""

    kind: Literal["adadelta"] = "adadelta"
    rho: Annotated[float, DropRate] = 0.95
    """Decay of the running averages."""
    eps: Annotated[float, Positive] = 1e-6
    """Epsilon added under the square roots."""


@config
class SgdConfig:
    """Stochastic gradient descent; Luong et al. 2015 use it without momentum, learning rate 1."""

    kind: Literal["sgd"] = "sgd"
    momentum: Annotated[float, DropRate] = 0.0
    """Decay of the accumulated gradient; 0: none."""


@config
class AdamConfig:
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"
    b1: Annotated[float, DropRate] = 0.9
    """Decay of the first moment."""
    b2: Annotated[float, DropRate] = 0.999
    """Decay of the second moment."""
    eps: Annotated[float, Positive] = 1e-8
    """Epsilon added to the denominator."""


@config
class AdamWConfig:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    b1: Annotated[float, DropRate] = 0.9
    """Decay of the first moment."""
    b2: Annotated[float, DropRate] = 0.999
    """Decay of the second moment."""
    eps: Annotated[float, Positive] = 1e-8
    """Epsilon added to the denominator."""
    weight_decay: Annotated[float, NotNegative] = 0.01
    """Weights shrink by this times the learning rate at every step."""


@config
class LionConfig:
    """Lion: the sign of a momentum, with decoupled weight decay (Chen et al. 2023)."""

    kind: Literal["lion"] = "lion"
    b1: Annotated[float, DropRate] = 0.9
    """Weight of the momentum in the update."""
    b2: Annotated[float, DropRate] = 0.99
    """Decay of the momentum."""
    weight_decay: Annotated[float, NotNegative] = 0.1
    """Weights shrink by this times the learning rate at every step."""


@config
class MuonConfig:
    """Muon: orthogonalised momentum for matrices, AdamW for all else (Jordan et al. 2024)."""

    kind: Literal["muon"] = "muon"
    beta: Annotated[float, DropRate] = 0.95
    """Decay of the momentum."""
    adam_share: Annotated[float, Positive] = 0.015
    """Learning rate of AdamW (vectors and embeddings) as a fraction of that of the matrices; 0.02
    and 3e-4 are usual together."""
    weight_decay: Annotated[float, NotNegative] = 0.0
    """Weights shrink by this times the learning rate at every step."""


@config
class AdafactorConfig:
    """Adafactor: Adam with a factored second moment (Shazeer and Stern 2018)."""

    kind: Literal["adafactor"] = "adafactor"


Optimizer = Annotated[
    AdadeltaConfig
    | SgdConfig
    | AdamConfig
    | AdamWConfig
    | LionConfig
    | MuonConfig
    | AdafactorConfig,
    Kind,
]


@config
class ConstantConfig:
    """Constant learning rate."""

    kind: Literal["constant"] = "constant"


@config
class HalvingConfig:
    """Learning rate halved repeatedly after some epochs (Luong et al. 2015, section 4.1)."""

    kind: Literal["halving"] = "halving"
    start_epoch: Annotated[int, NotNegative] = 5
    """Epochs at the full learning rate."""
    every: Annotated[int, Positive] = 1
    """Number of epochs between two halvings."""


@config
class InverseSqrtConfig:
    """Linear warm-up, then decay with 1 / sqrt(step) (Vaswani et al. 2017, eq. 3)."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup: Annotated[int, Positive] = 4000
    """Steps of warm-up, at whose end the learning rate is reached."""


@config
class CosineConfig:
    """Linear warm-up, then half a cosine down to a fraction at the last step."""

    kind: Literal["cosine"] = "cosine"
    warmup: Annotated[int, NotNegative] = 0
    """Steps of warm-up, at whose end the learning rate is reached."""
    final: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Final learning rate, as a fraction of the highest."""


@config
class WarmupStableDecayConfig:
    """Linear warm-up, a plateau, then a linear decay at the end (Hu et al. 2024)."""

    kind: Literal["wsd"] = "wsd"
    warmup: Annotated[int, NotNegative] = 0
    """Steps of warm-up, at whose end the learning rate is reached."""
    decay_share: Annotated[float, Interval(gt=0, le=1)] = 0.1
    """Share of all steps, at the end, during which the learning rate decays."""
    final: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Final learning rate, as a fraction of the highest."""


Schedule = Annotated[
    ConstantConfig | HalvingConfig | InverseSqrtConfig | CosineConfig | WarmupStableDecayConfig,
    Kind,
]


@config
class TrainingConfig:
    """Settings of a training run; its length is `steps`, `epochs`, or the shorter of both."""

    seed: Annotated[int, NotNegative] = 0
    """Seed of initial weights, dropout and the order of the batches."""
    steps: Annotated[int, Positive] | None = None
    """Number of updates; null: as `epochs` says."""
    epochs: Annotated[int, Positive] | None = None
    """Number of passes over the training data; null: as `steps` says."""
    batch_size: Annotated[int, Positive] = 80
    """Number of examples in a batch: sentence pairs, rows of text, images."""
    accumulate: Annotated[int, Positive] = 1
    """Number of parts of a batch, whose gradients are summed before one update, to save memory."""
    max_length: Annotated[int, Positive] = 50
    """Longest example in tokens. Translation leaves out longer pairs, and reports their number;
    classification truncates texts, special tokens included."""
    max_skipped: Annotated[float, Probability] = 0.5
    """Largest share of training pairs that `max_length` may leave out; more is an error."""
    buckets: Annotated[tuple[Annotated[int, Positive], ...], NotEmpty] | None = None
    """Lengths that batches are padded to, increasing; null: those that waste the least padding, at
    most six and at most one for each 100 steps, because each is a program to compile."""
    optimizer: Optimizer = AdamConfig()
    """Optimizer."""
    learning_rate: Annotated[float, Positive] = 1e-3
    """Highest learning rate."""
    schedule: Schedule = ConstantConfig()
    """Learning rate schedule."""
    clip_norm: Annotated[float, Positive] | None = 1.0
    """Largest global norm of the gradient, which is scaled down to it; null: no clipping."""
    label_smoothing: Annotated[float, DropRate] = 0.0
    """Label smoothing: probability spread evenly over the vocabulary, or the classes."""
    decay_all: bool = False
    """Apply weight decay to biases, norms and other vectors too, not only to matrices."""
    ema: Annotated[float, Interval(gt=0, lt=1)] | None = None
    """Decay of a running average of the weights, which is evaluated and saved as best; null: no
    average."""
    loss_per: Literal["token", "sentence"] = "token"
    """Average the loss over target tokens, or sum it in each sentence and average over sentences.
    The recurrent papers do the latter; the choice matters for SGD and for clipping."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations; weights, softmax and loss stay float32."""
    offload: Literal["none", "optimizer"] = "none"
    """State in host memory between updates: none, or the optimizer's."""
    evaluate_every: Annotated[int, Positive] | None = None
    """Steps between two evaluations on the validation part; null: one evaluation per epoch."""
    patience: Annotated[int, Positive] | None = None
    """Number of evaluations without a better one after which training stops, by the score that the
    task's best checkpoint is chosen by; null: never."""
    checkpoint_every: Annotated[int, Positive] | None = None
    """Steps between two checkpoints; null: at every evaluation."""
    keep: Annotated[int, Positive] = 2
    """Number of newest checkpoints to keep, besides the best one."""
    log_every: Annotated[int, Positive] = 50
    """Steps between two lines of metrics.jsonl."""
    figures_every: Annotated[int, Positive] | None = None
    """Evaluations between two pictures of the validation alignments; null: no pictures."""
    figures: Annotated[int, Positive] = 4
    """Number of validation sentences in each of these pictures."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    profile: tuple[Annotated[int, NotNegative], Annotated[int, Positive]] | None = None
    """First step and number of steps to trace with jax.profiler, into profile/ of the run."""

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of updates of the whole training."""
        limits = [self.steps, self.epochs and self.epochs * steps_per_epoch]
        return min(limit for limit in limits if limit)

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError("give 'steps', 'epochs' or both")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be cut into accumulate={self.accumulate} "
                "equal parts"
            )
        if self.decay_all and not hasattr(self.optimizer, "weight_decay"):
            raise ValueError(
                f"decay_all=true has no effect: optimizer.kind={self.optimizer.kind} has no weight "
                "decay; wanted adamw, lion or muon, or decay_all=false"
            )
        if self.buckets is not None and list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets={list(self.buckets)}; wanted increasing lengths")


if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
