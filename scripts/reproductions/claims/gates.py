"""Gates on channels and places in a small residual network on CIFAR-10."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from attnzoo.config.gates import (
    BAMConfig,
    CBAMConfig,
    CoordinateConfig,
    ECAConfig,
    NoGateConfig,
    NonLocalConfig,
    SEConfig,
    SpatialConfig,
)
from attnzoo.config.resnet import ResNetConfig
from attnzoo.models.resnet import ResidualNetwork
from reproductions.cifar import FOLDER, accuracy, shared, train
from reproductions.claim import (
    Check,
    Claim,
    Measured,
    Results,
    Setting,
    ahead,
    below,
    certain,
    close,
    headline,
)

GATES: dict[str, Any] = {
    "none": NoGateConfig(),
    "SE": SEConfig(reduction=4),
    "spatial": SpatialConfig(kernel_size=3),
    "CBAM": CBAMConfig(reduction=4, kernel_size=3),
    "ECA": ECAConfig(),
    "BAM": BAMConfig(reduction=4, dilation=2),
    "coordinate": CoordinateConfig(reduction=4),
    "non-local": NonLocalConfig(),
    "non-local, dot product": NonLocalConfig(score="dot_product"),
}


def _trained(setting: Setting, name: str) -> dict[str, float]:
    """Train a network with a gate; return its test accuracy and number of weights."""

    def measure(setting: Setting) -> dict[str, float]:
        config = ResNetConfig(attention=GATES[name], depth=8, width=8)
        model = ResidualNetwork(config, 10, rngs=nnx.Rngs(setting.seed))
        train(
            model,
            setting,
            steps=setting.pick(1_200, 2),
            rate=1e-2,
            one_program=False,
            use_running_average=False,
        )
        sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
        right = accuracy(model, setting, setting.pick(10_000, 100))
        return {"accuracy": right, "weights": float(sum(sizes))}

    return shared(setting, f"cifar-gates/{name}", measure)


def _some(*names: str) -> Callable[[Setting], Mapping[str, Measured]]:
    """Return the measure of a claim about some of the gates."""

    def measure(setting: Setting) -> Mapping[str, Measured]:
        """Train the networks that no claim has trained yet."""
        return {f"accuracy, {name}": _trained(setting, name)["accuracy"] for name in names}

    return measure


def _efficient(setting: Setting) -> Mapping[str, Measured]:
    """Train three networks; count the weights of ECA for each of SE."""
    found = dict(_some("ECA", "SE", "none")(setting))
    none, se, eca = (_trained(setting, name)["weights"] for name in ("none", "SE", "ECA"))
    return {**found, "weights of ECA for each of SE": (eca - none) / (se - none)}


def _came(*names: str) -> Callable[[Results], str]:
    def came(results: Results) -> str:
        told = [f"{results.mean(f'accuracy, {name}'):.1%} with {name}" for name in names]
        last = told[-1].replace("with none", "without a gate")
        return f"Of 10,000 test pictures {', '.join(told[:-1])} and {last} are classified rightly."

    return came


def _reaches(first: str, second: str) -> Check:
    return Check(
        f"{first} is on average at least {second}",
        lambda results: results.difference(first, second),
        low=0.0,
    )


TABLE = ("BAM", "CBAM", "coordinate", "SE", "ECA", "spatial", "none")

SETUP = (
    "CIFAR-10's 50,000 and 10,000 pictures at 16 x 16 pixels, a residual network of 8 layers and 8 "
    "to 32 channels, 1,200 steps of 64 pictures (one and a half epochs), mirrored and shifted; "
    "reduction 4 in the gates, 2 in non-local blocks, which stand behind the first two stages, as "
    "BAM does (dilation 2, since the maps have half the side of the paper's). The "
    "same trainings serve all claims about gates and blocks. The papers train far "
    "larger networks on ImageNet or Kinetics for 90 epochs or more."
)
COMMON: dict[str, Any] = {
    "setup": SETUP,
    "minutes": 1,
    "seeds": 3,
    "axes": ("accuracy", ""),
    "needs": (FOLDER,),
}

CLAIMS = (
    Claim(
        name="squeeze-excitation",
        title="Weights on channels improve a residual network",
        source="Hu, Shen and Sun 2018, arXiv 1709.01507, table 2",
        claimed="A squeeze-and-excitation gate in every residual block lowers the error of "
        "networks of all sizes at little cost.",
        criterion=(headline(ahead("accuracy, SE", "accuracy, none")),),
        measure=_some("SE", "none"),
        came=_came("SE", "none"),
        meaning="That a channel is weighed by what the whole picture shows helps even a network "
        "of 8 layers.",
        otherwise="In a network so small and trained so briefly the difference, if there is one, "
        "is no larger than what seeds differ by.",
        **COMMON,
    ),
    Claim(
        name="channel-and-spatial",
        title="Weights on channels and places are better than on channels alone",
        source="Woo et al. 2018, arXiv 1807.06521, tables 1 to 4",
        claimed="A channel gate that is followed by a spatial gate (CBAM) beats a network without "
        "gates and one with channel gates alone.",
        criterion=(
            ahead("accuracy, CBAM", "accuracy, none"),
            headline(ahead("accuracy, CBAM", "accuracy, SE")),
            ahead("accuracy, CBAM", "accuracy, spatial"),
        ),
        measure=_some("CBAM", "spatial", "SE", "none"),
        came=_came("CBAM", "SE", "spatial", "none"),
        meaning="What to look for and where to look are two questions, and both gates together "
        "answer them better than one.",
        otherwise="At this size, after so short a training, the gates differ by no more than seeds "
        "do, so that the order of table 4 is neither seen nor denied.",
        **COMMON,
    ),
    Claim(
        name="gates-compared",
        title="Channels and places together, side by side or along rows and columns",
        source="Park et al. 2018, arXiv 1807.06514, section 4 (BAM); Hou, Zhou and Feng 2021, "
        "arXiv 2103.02907, section 4 (coordinate attention)",
        claimed="Gates of channels and of places side by side (BAM) are better than none and than "
        "either kind alone; gates of a channel's rows and columns (coordinate attention) are "
        "better than none, than squeeze-and-excitation, and than CBAM.",
        criterion=tuple(
            headline(ahead(f"accuracy, {both}", f"accuracy, {other}"))
            for both, others in (
                ("BAM", ("none", "SE", "spatial")),
                ("coordinate", ("none", "SE", "CBAM")),
            )
            for other in others
        ),
        measure=_some(*TABLE),
        came=_came(*TABLE),
        meaning="What a gate sees of the place adds to what it sees of the channel, in more than "
        "one form.",
        otherwise="In one network, trained alike, the gates differ by no more than seeds do, so "
        "that their order is left open; the papers' networks are larger and trained longer.",
        **COMMON,
    ),
    Claim(
        name="efficient-channel-attention",
        title="A channel gate needs hardly any weights",
        source="Wang et al. 2020, arXiv 1910.03151, tables 2 and 3",
        claimed="A gate that convolves the channels' means with one small kernel (ECA) is at least "
        "as good as squeeze-and-excitation with a small share of its weights.",
        criterion=(
            ahead("accuracy, ECA", "accuracy, none"),
            headline(_reaches("accuracy, ECA", "accuracy, SE")),
            certain(
                below("weights of ECA for each of SE", 0.1),
                "both numbers follow from the sizes of the network",
            ),
        ),
        measure=_efficient,
        came=_came("ECA", "SE", "none"),
        meaning="What a channel's weight must know is little more than its own mean.",
        otherwise="On average the gate with few weights is a little behind the other and behind "
        "no gate, by no more than seeds differ: whether it costs accuracy is left open.",
        **COMMON,
    ),
    Claim(
        name="non-local-blocks",
        title="A block that compares all places improves a convolutional network",
        source="Wang et al. 2018, arXiv 1711.07971, table 2",
        claimed="Adding non-local blocks to a residual network improves it, and whether the "
        "pairwise function is a softmax or a plain dot product matters little.",
        criterion=(
            headline(ahead("accuracy, non-local", "accuracy, none")),
            headline(ahead("accuracy, non-local, dot product", "accuracy, none")),
            close("accuracy, non-local", "accuracy, non-local, dot product", 0.01),
        ),
        measure=_some("non-local", "non-local, dot product", "none"),
        came=_came("non-local", "non-local, dot product", "none"),
        meaning="Places far apart have something to tell each other that few convolutions cannot "
        "carry.",
        otherwise="On small pictures whose convolutions already see nearly all, what places far "
        "apart tell each other adds less than was asked; the paper classifies videos.",
        **COMMON,
    ),
)
