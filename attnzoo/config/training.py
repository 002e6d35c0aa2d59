"""How a model is trained: length, optimizer, schedule, and what is written on the way."""

from typing import Annotated, Literal

from attnzoo.config.fields import DropRate, Interval, Kind, NotEmpty, NotNegative, Positive, config


@config
class Adadelta:
    """Zeiler 2012; Bahdanau et al. 2015 use it with a learning rate of 1."""

    kind: Literal["adadelta"] = "adadelta"
    rho: Annotated[float, DropRate] = 0.95
    """Decay of the running averages."""
    eps: Annotated[float, Positive] = 1e-6
    """Added under the square roots."""


@config
class Sgd:
    """Stochastic gradient descent; Luong et al. 2015 use it plain, with a learning rate of 1."""

    kind: Literal["sgd"] = "sgd"
    momentum: Annotated[float, DropRate] = 0.0
    """Decay of the accumulated gradient; 0: none."""


@config
class Adam:
    """Kingma and Ba 2015."""

    kind: Literal["adam"] = "adam"
    b1: Annotated[float, DropRate] = 0.9
    """Decay of the first moment."""
    b2: Annotated[float, DropRate] = 0.999
    """Decay of the second moment."""
    eps: Annotated[float, Positive] = 1e-8
    """Added to the denominator."""


@config
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    b1: Annotated[float, DropRate] = 0.9
    """Decay of the first moment."""
    b2: Annotated[float, DropRate] = 0.999
    """Decay of the second moment."""
    eps: Annotated[float, Positive] = 1e-8
    """Added to the denominator."""
    weight_decay: Annotated[float, NotNegative] = 0.01
    """Weights shrink by this times the learning rate at every step."""


@config
class Lion:
    """The sign of a momentum, with decoupled weight decay (Chen et al. 2023)."""

    kind: Literal["lion"] = "lion"
    b1: Annotated[float, DropRate] = 0.9
    """Share of the momentum in the update."""
    b2: Annotated[float, DropRate] = 0.99
    """Decay of the momentum."""
    weight_decay: Annotated[float, NotNegative] = 0.1
    """Weights shrink by this times the learning rate at every step."""


@config
class Muon:
    """Orthogonalised momentum for matrices, AdamW for everything else (Jordan et al. 2024)."""

    kind: Literal["muon"] = "muon"
    beta: Annotated[float, DropRate] = 0.95
    """Decay of the momentum."""
    adam_share: Annotated[float, Positive] = 0.015
    """Learning rate of what is no matrix, and of embeddings, as a fraction of the matrices' (0.02
    and 3e-4 belong together)."""
    weight_decay: Annotated[float, NotNegative] = 0.0
    """Weights shrink by this times the learning rate at every step."""


@config
class Adafactor:
    """Adam's second moment in factored form (Shazeer and Stern 2018)."""

    kind: Literal["adafactor"] = "adafactor"


Optimizer = Annotated[Adadelta | Sgd | Adam | AdamW | Lion | Muon | Adafactor, Kind]


@config
class Constant:
    """The learning rate never changes."""

    kind: Literal["constant"] = "constant"


@config
class Halving:
    """Halved again and again after some epochs (Luong et al. 2015, section 4.1)."""

    kind: Literal["halving"] = "halving"
    start_epoch: Annotated[int, NotNegative] = 5
    """Epochs at the full learning rate."""
    every: Annotated[int, Positive] = 1
    """Epochs between two halvings from then on."""


@config
class InverseSqrt:
    """Linear warm-up, then decay with 1 / sqrt(step) (Vaswani et al. 2017, eq. 3)."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup: Annotated[int, Positive] = 4000
    """Steps of warm-up; the learning rate is reached at their end."""


@config
class Cosine:
    """Linear warm-up, then half a cosine down to a fraction at the last step."""

    kind: Literal["cosine"] = "cosine"
    warmup: Annotated[int, NotNegative] = 0
    """Steps of warm-up; the learning rate is reached at their end."""
    final: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """What is left at the end, as a fraction of the learning rate."""


@config
class WarmupStableDecay:
    """Linear warm-up, a plateau, then a linear way down at the end (Hu et al. 2024)."""

    kind: Literal["wsd"] = "wsd"
    warmup: Annotated[int, NotNegative] = 0
    """Steps of warm-up; the learning rate is reached at their end."""
    decay_share: Annotated[float, Interval(gt=0, le=1)] = 0.1
    """Share of all steps, the last ones, on which the learning rate falls."""
    final: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """What is left at the end, as a fraction of the learning rate."""


Schedule = Annotated[Constant | Halving | InverseSqrt | Cosine | WarmupStableDecay, Kind]


@config
class Training:
    """One training run; `steps`, `epochs` or both say how long (whichever ends first)."""

    seed: Annotated[int, NotNegative] = 0
    """Initial weights, dropout and the order of the batches."""
    steps: Annotated[int, Positive] | None = None
    """Updates; null: as `epochs` says."""
    epochs: Annotated[int, Positive] | None = None
    """Passes over the training data; null: as `steps` says."""
    batch_size: Annotated[int, Positive] = 80
    """Examples in a batch: sentence pairs, rows of text, images."""
    accumulate: Annotated[int, Positive] = 1
    """Parts that a batch is cut into, whose gradients are added up before one update: the memory of
    a small batch, the step of a large one."""
    max_length: Annotated[int, Positive] = 50
    """Longest example in tokens. Translation leaves out pairs with a longer side, counted and
    reported; classification cuts texts to it, special tokens included."""
    buckets: Annotated[tuple[Annotated[int, Positive], ...], NotEmpty] | None = None
    """Lengths that batches are padded to, rising; null: chosen from the data."""
    optimizer: Optimizer = Adam()
    """The rule of the update."""
    learning_rate: Annotated[float, Positive] = 1e-3
    """Highest learning rate."""
    schedule: Schedule = Constant()
    """How the learning rate changes over the run."""
    clip_norm: Annotated[float, Positive] | None = 1.0
    """The gradient is scaled down to this global norm; null: never."""
    label_smoothing: Annotated[float, DropRate] = 0.0
    """Probability spread evenly over the vocabulary, or the classes."""
    decay_all: bool = False
    """Weight decay also for biases, norms and other vectors, not for matrices alone."""
    ema: Annotated[float, Interval(gt=0, lt=1)] | None = None
    """Decay of a running average of the weights, which is evaluated and kept as the best; null:
    the weights themselves."""
    loss_per: Literal["token", "sentence"] = "token"
    """The loss is averaged over target tokens, or summed in a sentence and averaged over those; the
    recurrent papers do the latter, which matters to SGD and to the clipping."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations; weights, softmax and loss stay float32."""
    offload: Literal["none", "optimizer"] = "none"
    """What waits in the host's memory between two updates: nothing, or the optimizer's state."""
    evaluate_every: Annotated[int, Positive] | None = None
    """Steps between two evaluations on the validation part; null: once an epoch."""
    patience: Annotated[int, Positive] | None = None
    """Stop after so many evaluations without a better validation loss; null: never."""
    checkpoint_every: Annotated[int, Positive] | None = None
    """Steps between two checkpoints; null: at every evaluation."""
    keep: Annotated[int, Positive] = 2
    """Newest checkpoints that are kept, beside the best one."""
    log_every: Annotated[int, Positive] = 50
    """Steps between two lines of metrics.jsonl."""
    figures_every: Annotated[int, Positive] | None = None
    """Evaluations between two pictures of the validation alignments; null: none."""
    figures: Annotated[int, Positive] = 4
    """Validation sentences in each of these pictures."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    profile: tuple[Annotated[int, NotNegative], Annotated[int, Positive]] | None = None
    """First step and number of steps to trace with jax.profiler, into profile/ of the run."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError("give 'steps', 'epochs' or both")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be cut into accumulate={self.accumulate} "
                "equal parts"
            )
        if self.buckets is not None and list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets={list(self.buckets)} do not rise")
