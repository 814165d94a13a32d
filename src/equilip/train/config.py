"""What a training run is told, as frozen dataclasses that say no to values that cannot work. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from equilip.errors import ConfigError
from equilip.train.toml import nearest

#: Networks of layers with slope at most 1.
STACKS = ("cpl", "sll", "aol", "cayley", "sandwich", "spectral")
#: The same layers on images, with convolutions.
IMAGE_STACKS = tuple(f"{kind}-conv" for kind in STACKS)
#: Convolutional networks: bounded where gamma is given, or well-posed only.
CONVOLUTIONS = ("lben-conv",)
#: Networks that contract in a weighted maximum norm.
CONTRACTIONS = ("nemon", "nemon-conv")
MODELS = (
    "lben", "lben-conv", "monotone", "multi-tier", *CONTRACTIONS, "feedforward", "feedforward-conv", "unconstrained",
    "monotonic", *STACKS, *IMAGE_STACKS,
)  # fmt: skip
#: Networks that boxes pass through in the loss boxes.
BOXABLE = (*CONTRACTIONS, "feedforward")
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "elu", "softplus", "hardtanh", "sigmoid", "identity")
LOSSES = ("cross-entropy", "margin", "lipschitz-margin", "certified", "boxes")
#: l-infinity bounds, for the loss boxes; the rest are penalties on what is found, for every other loss.
BOUNDS = ("comparison", "paper")
PENALTIES = (*BOUNDS, "clip", "jacobian")
SCHEDULES = ("constant", "step", "cosine", "one-cycle")
DTYPES = ("float32", "float64")
METRICS = ("full", "channel", "image", "identity")
PADDINGS = ("zeros", "circular")
LAYERS = ("weighted", "plain")


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A field that knows what the command line says about it."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """One training run: data, network, loss, optimiser. Every field is a key of a TOML file and a flag of
    ``equilip train``.

    Raises ConfigError for values that cannot work, naming the field.
    """

    data: str = option("digits", "data set: digits, mnist, fashion-mnist, cifar10, svhn or npz:PATH")
    limit: int | None = option(None, "use only the first N samples of each part")
    validation: float = option(0.0, "share of the training data held out to watch the training")
    shift: int = option(0, "move every training image by up to N pixels each way, afresh in every epoch")
    model: str = option("lben", "parametrisation of the network", MODELS)
    width: int = option(80, "number of neurons, of each hidden layer where there are several")
    depth: int = option(
        1,
        "hidden layers of a feedforward, monotonic, cpl, sll, aol, cayley, sandwich or spectral network, and of those "
        "named so with -conv",
    )
    tiers: int = option(
        2,
        "hidden images of a multi-tier network: each half as tall and wide as the one before, with twice the channels",
    )
    gamma: float | None = option(
        None,
        "bound on the slope, with respect to the standardised input, of a network of 1-Lipschitz layers or of an lben; "
        "an lben without is only well-posed",
    )
    increasing: tuple[int, ...] = option(
        (), "inputs, counted from 0, whose growth never makes a monotonic network lean away from the class towards"
    )
    decreasing: tuple[int, ...] = option((), "inputs whose growth never makes it lean towards that class")
    towards: int | None = option(None, "that class, counted from 0; the last one if left out")
    learn_gamma: bool = option(False, "train the bound too, starting from --gamma")
    epsilon: float = option(1.0, "margin of an lben's well-posedness")
    kernel: int = option(
        3, "pixels across the kernels of a model named -conv, or multi-tier: 1, 3, 5 or 7; its width counts channels"
    )
    metric: str = option("full", "which neurons of an lben-conv have multipliers of their own", METRICS)
    padding: str = option("zeros", "what surrounds the images of a model named -conv, or multi-tier", PADDINGS)
    pool: int = option(2, "the output of a model named -conv, or multi-tier, reads means over N x N pixels")
    pool_padding: int = option(0, "zeros around the hidden images of an lben-conv or feedforward-conv for those means")
    layer: str = option(
        "weighted",
        "how the input of an lben-conv enters: weighted by its multipliers, or plain, as published, which takes ten "
        "times as long with a gamma and the metric full or image",
        LAYERS,
    )
    stride: int = option(1, "the input layer of a nemon-conv reads at every N-th pixel, each way")
    patch: int = option(1, "N x N pixels become channels of one before the layers of a cpl-conv, sll-conv, ...")
    feedthrough: bool = option(False, "give an lben a direct path D from input to output, inside its bound")
    m: float = option(1.0, "strong monotonicity of a monotone or multi-tier network")
    measure: float = option(
        0.0, "what the weighted l-infinity measure of a nemon's (nemon-conv's) W stays below; below 1"
    )
    gate: float = option(
        0.0, "inputs of a nemon within this of 0 or 1 become 0 or 1; takes the place of the standardisation"
    )
    activation: str = option("relu", "nonlinearity of every neuron", ACTIVATIONS)
    loss: str = option("cross-entropy", "what is minimised", LOSSES)
    loss_eps: float = option(
        0.0, "raw distance against which lipschitz-margin and certified (l2) and boxes (l-infinity) train"
    )
    kappa: float = option(1.0, "share of the worst outputs in the loss boxes, once the training has got there")
    ramp: float = option(0.4, "share of the training in which the loss boxes gets to its kappa and loss_eps")
    regulariser: float = option(0.0, "weight of the penalty that is added to the loss")
    penalty: str = option(
        "comparison",
        "of what: with the loss boxes an l-infinity bound, of the comparison matrix or the paper's looser one; with "
        "every other the largest slope between pairs of inputs (clip) or the mean slope at the data (jacobian)",
        PENALTIES,
    )
    clip_goal: float | None = option(
        None,
        "training accuracy, as a share, that the penalty clip is to leave: after every epoch that reaches it the "
        "regulariser grows by clip_increment, after every other it shrinks",
    )
    clip_increment: float | None = option(
        None, "by how much the regulariser changes after an epoch; a tenth of its start if left out"
    )
    clip_warm_up: int = option(5, "epochs before it changes for the first time")
    margin: float = option(1.0, "lead over every other class that the margin loss asks for")
    temperature: float = option(1.0, "softness of every loss but margin: divides outputs, for certified radii")
    epochs: int = option(30, "passes over the training data")
    batch: int = option(128, "samples per step")
    lr: float = option(1e-3, "learning rate of Adam, at its highest")
    beta1: float = option(0.9, "share of the past in Adam's mean of the gradients; 0 goes without momentum")
    beta2: float = option(0.999, "share of the past in Adam's mean of their squares")
    schedule: str = option("step", "how the learning rate goes", SCHEDULES)
    step_epochs: int = option(10, "epochs after which the step schedule divides the learning rate by 10")
    patience: int | None = option(
        None, "stop when the validation loss has not improved for N epochs, and keep the best epoch's network"
    )
    eps: tuple[float, ...] = option((), "raw l2 distances at which each epoch reports the certified accuracy")
    tolerance: float | None = option(None, "relative residual of every solve; chosen by dtype if left out")
    seed: int = option(0, "seed of the initial weights and of the order of the samples")
    dtype: str = option("float32", "number format", DTYPES)
    device: str = option("cpu", "where to compute: cpu, cuda, cuda:1, ...")

    def __post_init__(self) -> None:
        for name, choices in (
            ("model", MODELS),
            ("activation", ACTIVATIONS),
            ("loss", LOSSES),
            ("penalty", PENALTIES),
            ("schedule", SCHEDULES),
            ("dtype", DTYPES),
            ("metric", METRICS),
            ("padding", PADDINGS),
            ("layer", LAYERS),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"unknown {name} {value!r}; {nearest(value, choices)}")
        for name in (
            "limit",
            "width",
            "depth",
            "epochs",
            "batch",
            "step_epochs",
            "patience",
            "pool",
            "stride",
            "patch",
            "tiers",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("gamma", "epsilon", "m", "lr", "tolerance", "margin", "temperature", "clip_increment"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value:g}")
        for value in (self.loss_eps, *self.eps):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"a distance cannot be negative or infinite, got {value:g}")
        if not (math.isfinite(self.measure) and self.measure < 1):
            raise ConfigError(f"measure must be below 1, got {self.measure:g}")
        if not 0 <= self.gate < 0.5:
            raise ConfigError(f"gate must be at least 0 and below 1/2, got {self.gate:g}")
        if not (0 <= self.kappa <= 1 and 0 < self.ramp <= 1 and 0 <= self.regulariser < math.inf):
            raise ConfigError("kappa and ramp are shares, from 0 to 1, and regulariser a weight of at least 0")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"{name} is a share of the past, from 0 to below 1, got {value:g}")
        if self.clip_goal is not None and not 0 < self.clip_goal < 1:
            raise ConfigError(f"clip_goal is a share of the training data, between 0 and 1, got {self.clip_goal:g}")
        if self.clip_warm_up < 0:
            raise ConfigError(f"clip_warm_up cannot be negative, got {self.clip_warm_up}")
        if not 0 <= self.validation < 1:
            raise ConfigError(f"validation is a share of the training data, from 0 to below 1, got {self.validation:g}")
        if not 0 <= self.shift <= 8:
            raise ConfigError(f"shift must be between 0 and 8 pixels, got {self.shift}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        for name, others in (
            ("gamma", (*CONVOLUTIONS, *STACKS, *IMAGE_STACKS, "monotonic")),
            ("learn_gamma", (*STACKS, *IMAGE_STACKS, "monotonic")),
            ("feedthrough", ()),
        ):
            if getattr(self, name) and self.model not in ("lben", *others):
                models = ", ".join(("lben", *others))
                raise ConfigError(f"{name} is a property of the model {models}; a {self.model} network has none to set")
        images = (*CONVOLUTIONS, "multi-tier", "feedforward-conv", "nemon-conv", *IMAGE_STACKS)
        for name, default, kinds in (
            ("kernel", 3, images),
            ("metric", "full", CONVOLUTIONS),
            ("padding", "zeros", images),
            ("pool", 2, images),
            ("pool_padding", 0, (*CONVOLUTIONS, "feedforward-conv")),
            ("layer", "weighted", CONVOLUTIONS),
            ("stride", 1, ("nemon-conv",)),
            ("tiers", 2, ("multi-tier",)),
            ("patch", 1, IMAGE_STACKS),
            ("measure", 0.0, CONTRACTIONS),
            ("gate", 0.0, ("nemon",)),
        ):
            if getattr(self, name) != default and self.model not in kinds:
                raise ConfigError(
                    f"{name} is a property of the model {', '.join(kinds)}; a {self.model} network has none to set"
                )
        if not 0 <= self.pool_padding < self.pool:
            raise ConfigError(f"pool_padding must be at least 0 and below pool ({self.pool}), got {self.pool_padding}")
        if self.kernel not in (1, 3, 5, 7):
            raise ConfigError(f"kernel must be 1, 3, 5 or 7, got {self.kernel}")
        if self.model in ("monotonic", *STACKS, *IMAGE_STACKS) and self.gamma is None:
            raise ConfigError(f"a {self.model} network has a bound by construction: give gamma, for example 1")
        self._check_directions()
        if self.depth > 1 and self.model not in ("feedforward", "monotonic", *STACKS, *IMAGE_STACKS):
            raise ConfigError(f"depth is a property of networks with layers; a {self.model} network has none to set")
        if self.loss == "boxes" and self.model not in BOXABLE:
            raise ConfigError(
                f"the loss boxes needs a network that boxes pass through: choose the model {', '.join(BOXABLE)}"
            )
        self._check_penalty()
        if self.gamma is None:
            for name in ("learn_gamma", "feedthrough"):
                if getattr(self, name):
                    raise ConfigError(f"{name} needs a bound: give gamma")
            # A feed-forward network has the product of its layers' norms.
            bounded = self.model == "feedforward"
            if self.loss in ("lipschitz-margin", "certified") and not bounded:
                raise ConfigError(f"the loss {self.loss} needs a bound: choose the model lben, say, and give gamma")
            if self.eps and not bounded:
                raise ConfigError("certified accuracy (eps) needs a bound: choose the model lben, say, and give gamma")
        against = ("lipschitz-margin", "certified", "boxes")
        if self.loss_eps and self.loss not in against:
            raise ConfigError(f"loss_eps means nothing to the loss {self.loss}; choose one of {', '.join(against)}")
        if self.loss in against and not self.loss_eps:
            raise ConfigError(f"the loss {self.loss} needs the distance to train against: give loss_eps")
        if self.patience is not None and not self.validation:
            raise ConfigError("patience needs data to watch: give validation, the share to hold out")

    def _check_directions(self) -> None:
        chosen = (*self.increasing, *self.decreasing)
        if self.model != "monotonic":
            if chosen or self.towards is not None:
                raise ConfigError(
                    f"increasing, decreasing and towards belong to the model monotonic, not to {self.model}"
                )
            return
        if not chosen or min(chosen) < 0 or len(set(chosen)) != len(chosen):
            raise ConfigError(
                "a monotonic network needs inputs to be monotonic in, each once: increasing or decreasing"
            )
        if self.loss in ("lipschitz-margin", "certified") or self.eps:
            raise ConfigError(
                "a monotonic network has no l2 bound to train with or report: leave out that loss, and eps"
            )

    def _check_penalty(self) -> None:
        bounds = self.penalty in BOUNDS
        if not bounds and not self.regulariser:
            raise ConfigError(f"the penalty {self.penalty} needs a weight: give regulariser, for example 0.1")
        if bounds and self.regulariser and self.loss != "boxes":
            raise ConfigError(
                f"the penalty {self.penalty} belongs to the loss boxes; with the loss {self.loss} choose the penalty "
                "clip or jacobian"
            )
        if not bounds and self.loss == "boxes":
            raise ConfigError(
                f"the loss boxes has penalties of its own, {' and '.join(BOUNDS)}; {self.penalty} is none"
            )
        if not bounds and self.model == "unconstrained":
            raise ConfigError(f"the penalty {self.penalty} needs an equilibrium everywhere: choose another model")
        if self.clip_goal is not None and self.penalty != "clip":
            raise ConfigError("clip_goal chooses the weight of the penalty clip: give penalty clip, and a regulariser")
        if self.clip_goal is None and (self.clip_increment is not None or self.clip_warm_up != 5):
            raise ConfigError("clip_increment and clip_warm_up mean nothing without clip_goal: give that accuracy")
        if self.clip_goal is not None and self.epochs < self.clip_warm_up + 2:
            raise ConfigError(
                f"the regulariser would change after epoch {self.clip_warm_up + 1} for the first time, and there are "
                f"{self.epochs}: give more epochs, or a smaller clip_warm_up"
            )

    def as_table(self) -> Mapping[str, Any]:
        """The fields as plain values, None where nothing was chosen."""
        return asdict(self)
