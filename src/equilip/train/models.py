"""Which network a configuration describes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import torch

from equilip import activations, nn
from equilip.chain import Network
from equilip.data import Dataset
from equilip.errors import ConfigError
from equilip.form import Form, Standardisation
from equilip.train import contractions, convolutions, tiers
from equilip.train.config import CONVOLUTIONS, IMAGE_STACKS, STACKS, TrainConfig
from equilip.train.contractions import ContractionConfig
from equilip.train.convolutions import ConvolutionConfig
from equilip.train.directions import monotonic
from equilip.train.image_stacks import ImageStackConfig, image_stack
from equilip.train.stacks import stack
from equilip.train.tiers import TierConfig
from equilip.train.toml import nearest

Model = (
    nn.LBEN
    | nn.LBENConv
    | nn.MonotoneNetwork
    | nn.MultiTierMonotone
    | nn.NEMON
    | nn.NEMONConv
    | nn.FeedForward
    | nn.FeedForwardConv
    | nn.Stack
    | nn.MonotonicWrapper
    | nn.Unconstrained
    | nn.Explicit
)

#: The kinds of network that a run directory can hold.
KINDS = (
    "lben",
    "lben-conv",
    "monotone",
    "multi-tier",
    "nemon",
    "nemon-conv",
    "feedforward",
    "feedforward-conv",
    "unconstrained",
    "monotonic",
    "explicit",
    *STACKS,
    *IMAGE_STACKS,
)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a network: all that is needed to read its parameters from a file.

    kind: one of :data:`KINDS`; ``explicit`` is a fixed form and takes everything else from it.
    """

    kind: str
    in_features: int
    hidden: tuple[int, ...]
    out_features: int
    dtype: str = "float32"
    standardised: bool = False
    activation: str = "relu"
    gamma: float | None = None
    learn_gamma: bool = False
    epsilon: float = 1.0
    feedthrough: bool = False
    m: float = 1.0
    measure: float = 0.0
    gate: float = 0.0
    increasing: tuple[int, ...] = ()
    decreasing: tuple[int, ...] = ()
    towards: int | None = None
    image: tuple[int, ...] = ()
    channels: int = 0
    kernel: int = 3
    metric: str = "full"
    padding: str = "zeros"
    pool: int = 1
    pool_padding: int = 0
    layer: str = "weighted"
    patch: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"unknown kind of model {self.kind!r}; {nearest(self.kind, KINDS)}")
        if self.kind in ("lben", "monotone", "nemon", "unconstrained") and len(self.hidden) != 1:
            raise ConfigError(f"a model of kind {self.kind} has one width, not {len(self.hidden)}")
        if self.kind in (*CONVOLUTIONS, "feedforward-conv"):
            assert self.convolution is not None  # raises ConfigError where it makes no sense
        if self.kind in IMAGE_STACKS:
            assert self.image_stack is not None
        if self.kind == "nemon-conv":
            assert self.contraction is not None
        if self.kind == "multi-tier":
            assert self.tiers is not None

    @property
    def convolution(self) -> ConvolutionConfig | None:
        """What only convolutional networks have; None for all others."""
        if self.kind not in (*CONVOLUTIONS, "feedforward-conv"):
            return None
        names = [field.name for field in fields(ConvolutionConfig)]
        return ConvolutionConfig(**{name: getattr(self, name) for name in names})

    @property
    def contraction(self) -> ContractionConfig | None:
        """What only convolutional contracting networks have; None for all others."""
        if self.kind != "nemon-conv":
            return None
        return ContractionConfig(
            self.image, self.channels, self.kernel, self.padding, self.pool, self.pool_padding, self.stride
        )

    @property
    def tiers(self) -> TierConfig | None:
        """What only multi-tier networks have; None for all others."""
        if self.kind != "multi-tier":
            return None
        return TierConfig(self.image, self.channels, len(self.hidden), self.kernel, self.padding, self.pool)

    @property
    def image_stack(self) -> ImageStackConfig | None:
        """What only stacks of convolutional layers have; None for all others."""
        if self.kind not in IMAGE_STACKS:
            return None
        names = ("kind", "image", "channels", "kernel", "padding", "pool", "patch")
        return ImageStackConfig(depth=len(self.hidden), **{name: getattr(self, name) for name in names})


def network(model: Model) -> Network:
    """What a model is kept and certified as: its form, or a chain of layers where that would be too large."""
    return model.network() if isinstance(model, nn.Stack) else model.form()


def describe(config: TrainConfig, dataset: Dataset) -> ModelConfig:
    """The network that a training configuration asks for on that data."""
    convolution = None
    if config.model in (*CONVOLUTIONS, "feedforward-conv"):
        convolution = ConvolutionConfig(
            dataset.shape, config.width, config.kernel, config.metric, config.padding, config.pool,
            config.pool_padding, config.layer,
        )  # fmt: skip
    hidden = (config.width,) * config.depth if convolution is None else (convolution.neurons,)
    own = {} if convolution is None else asdict(convolution)
    if config.model == "nemon-conv":
        contraction = ContractionConfig(
            dataset.shape, config.width, config.kernel, config.padding, config.pool, 0, config.stride
        )
        hidden, own = (contraction.neurons,), asdict(contraction)
    if config.model in IMAGE_STACKS:
        images = ImageStackConfig(
            config.model, dataset.shape, config.width, config.depth, config.kernel, config.padding, config.pool,
            config.patch,
        )  # fmt: skip
        hidden = (images.neurons,) * config.depth
        own = {name: value for name, value in asdict(images).items() if name not in ("kind", "depth")}
    if config.model == "multi-tier":
        tiered = TierConfig(dataset.shape, config.width, config.tiers, config.kernel, config.padding, config.pool)
        hidden = tiered.neurons
        own = {name: value for name, value in asdict(tiered).items() if name != "tiers"}
    return ModelConfig(
        kind=config.model,
        in_features=dataset.in_features,
        hidden=hidden,
        out_features=dataset.classes,
        dtype=config.dtype,
        # A gate takes raw inputs.
        standardised=dataset.standardisation is not None and not config.gate,
        activation=config.activation,
        gamma=config.gamma,
        learn_gamma=config.learn_gamma,
        epsilon=config.epsilon,
        feedthrough=config.feedthrough,
        m=config.m,
        measure=config.measure,
        gate=config.gate,
        increasing=config.increasing,
        decreasing=config.decreasing,
        towards=config.towards,
        **own,
    )


def build(
    config: ModelConfig,
    *,
    standardisation: Standardisation | None = None,
    generator: torch.Generator | None = None,
    form: Form | None = None,
) -> Model:
    """The network, freshly initialised on the CPU; ``form`` is what an explicit one is made of."""
    dtype = torch.float32 if config.dtype == "float32" else torch.float64
    if config.kind == "explicit":
        if form is None:
            raise ConfigError("an explicit model is made from a form, and none was given")
        return nn.Explicit(form)
    sigma = activations.activation(config.activation)
    p, q = config.in_features, config.out_features
    if config.kind == "feedforward":
        return nn.FeedForward(
            p,
            config.hidden,
            q,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    convolution = config.convolution
    if convolution is not None and config.kind == "feedforward-conv":
        return convolutions.feedforward(
            convolution,
            q,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    if convolution is not None:
        return convolutions.network(
            convolution,
            q,
            config.gamma,
            config.epsilon,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    images = config.image_stack
    if images is not None:
        return image_stack(
            images,
            q,
            config.gamma,
            learn_gamma=config.learn_gamma,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    if config.kind in STACKS:
        return stack(
            config.kind,
            p,
            config.hidden,
            q,
            config.gamma,
            learn_gamma=config.learn_gamma,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    if config.kind == "monotonic":
        assert config.gamma is not None
        return monotonic(
            p,
            config.hidden,
            q,
            config.gamma,
            increasing=config.increasing,
            decreasing=config.decreasing,
            towards=config.towards,
            learn_gamma=config.learn_gamma,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    if config.kind == "monotone":
        return nn.MonotoneNetwork(
            p,
            config.hidden[0],
            q,
            m=config.m,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    if config.kind == "nemon":
        return nn.NEMON(
            p,
            config.hidden[0],
            q,
            m=config.measure,
            gate=config.gate,
            activation=sigma,
            standardisation=standardisation if config.standardised else None,
            dtype=dtype,
            generator=generator,
        )
    contraction = config.contraction
    if contraction is not None:
        return contractions.network(
            contraction,
            q,
            config.measure,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    tiered = config.tiers
    if tiered is not None:
        return tiers.network(
            tiered,
            q,
            config.m,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    if config.kind == "unconstrained":
        return nn.Unconstrained(
            p,
            config.hidden[0],
            q,
            activation=sigma,
            standardisation=standardisation,
            dtype=dtype,
            generator=generator,
        )
    return nn.LBEN(
        p,
        config.hidden[0],
        q,
        config.gamma,
        epsilon=config.epsilon,
        learn_gamma=config.learn_gamma,
        feedthrough=config.feedthrough,
        activation=sigma,
        standardisation=standardisation,
        dtype=dtype,
        generator=generator,
    )
