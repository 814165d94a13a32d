"""Convolutional steps down a convex potential: CPL and SLL for images (mathematics 4.1, 4.2)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from equilip.activations import Activation, ReLU
from equilip.form import Form
from equilip.nn.dominance import dominating_channels
from equilip.nn.guarantee import Guarantee
from equilip.nn.image import ImageLayer, image_shape, padding_of
from equilip.nn.layer import step_bound
from equilip.nn.module import check_sizes, check_small, uniform
from equilip.nn.sll import LARGEST
from equilip.operators import Conv2d, Dense, Diagonal, Padding, Transposed, convolution_bound
from equilip.operators.convolution import repeats


class PotentialConv(ImageLayer):
    """y = x - 2 Wᵀ T⁻¹ σ(W x + b), W a convolution and Wᵀ its exact adjoint, T one number per hidden channel.

    With Λ = 2 T⁻¹ the LMI of mathematics 1.2 at γ = 1 is diag(T) >= W Wᵀ, whatever the padding and the stride: hidden
    images are as large as those make them, the output is as large as the input.

    channels: of input and output; hidden_channels: as many if None. padding: a number of zeros on every side, or
    :class:`equilip.operators.Circular`. image_size: (height, width), or one number. activation: any with slopes in
    [0, 1]. Parameters: weight (hidden, channels, k, k), bias (hidden,). Raises InputError for what does not fit.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int | None,
        kernel_size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        *,
        image_size: int | tuple[int, int],
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        hidden = channels if hidden_channels is None else hidden_channels
        check_sizes(channels=channels, hidden_channels=hidden, kernel_size=kernel_size, stride=stride)
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding_of(padding)
        self.activation = ReLU() if activation is None else activation
        shape = image_shape(channels, image_size)
        self._shapes(shape, shape)

        def draw(*sizes: int) -> torch.nn.Parameter:
            fan_in = channels * kernel_size**2
            return uniform(*sizes, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        self.weight = draw(hidden, channels, kernel_size, kernel_size)
        self.bias = draw(hidden)
        self.hidden_shape = self._convolution(self.weight.detach()).out_shape

    @abstractmethod
    def metric(self) -> Tensor:
        """T (hidden,), positive, differentiable in the parameters."""

    def rows(self, x: Tensor) -> Tensor:
        s = self._convolution(self.weight).apply(x) + self._each(self.bias)
        return x - self._convolution(self._back()).adjoint(self.activation.value(s))

    def form(self) -> Form:
        like, n = self.weight, self._pixels() * self.hidden_shape[0]
        check_small(n, n)
        return Form(
            W=Dense(like.new_zeros(n, n)), U=self._convolution(self.weight), b=self._each(self.bias),
            C=Transposed(self._convolution(-self._back())), D=Diagonal(like.new_ones(self.in_features)),
            c=like.new_zeros(self.out_features), activation=self.activation, lam=self._each(2 / self.metric()),
        )  # fmt: skip

    def guarantee(self) -> Guarantee:
        return Guarantee(1.0, self._each(2 / self.metric().detach()))

    def proved_bound(self) -> float:
        with torch.no_grad():
            W, T = self.weight.double(), self.metric().double()
            balanced = self._convolution(W * (2 / T).sqrt()[:, None, None, None]).norm_bound()
            count = W.numel() * self._repeats()
            return step_bound(balanced, self._convolution(W).norm_bound(), self.weight.dtype, count)

    def _convolution(self, kernel: Tensor) -> Conv2d:
        return Conv2d(kernel, self.in_shape, self.padding, self.stride)

    def _back(self) -> Tensor:
        """The kernel of 2 T⁻¹ W, whose adjoint leads back."""
        return 2 * self.weight / self.metric()[:, None, None, None]

    def _pixels(self) -> int:
        return self.hidden_shape[1] * self.hidden_shape[2]

    def _each(self, channels: Tensor) -> Tensor:
        """One number per hidden channel as one per neuron."""
        return channels.repeat_interleave(self._pixels())

    def _repeats(self) -> int:
        return repeats(self.in_shape[1:], self.weight.shape[2:], self.padding)

    def extra_repr(self) -> str:
        return (
            f"{self.in_shape[0]}, {self.hidden_shape[0]}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, image_size={self.in_shape[1:]}, activation={self.activation.kind}"
        )


class CPLConv(PotentialConv):
    """T = ‖W‖², bounded from above by Gram iteration at the frequencies of a large enough torus (mathematics 6)."""

    def metric(self) -> Tensor:
        norm = convolution_bound(self.weight, self.in_shape[1:], self.padding, self.stride, 6)
        own = torch.where(norm > 0, norm, torch.ones_like(norm)).square() * (1 + 2 * torch.finfo(norm.dtype).eps)
        return own.expand(self.hidden_shape[0])


class SLLConv(PotentialConv):
    """T_i = Σ_j Σ_d |Σ_a K_i[a] K_j[a + d]| q_j / q_i with q = exp θ, q_j on the axis that is summed.

    Parameters beside those of the potential layer: log_q (hidden,), θ, used within ±20. In the published convolution
    q and 1/q stand on one axis and cancel (mathematics 4.2).
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int | None,
        kernel_size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        *,
        image_size: int | tuple[int, int],
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            channels, hidden_channels, kernel_size, stride, padding,
            image_size=image_size, activation=activation, device=device, dtype=dtype, generator=generator,
        )  # fmt: skip
        self.log_q = torch.nn.Parameter(torch.empty_like(self.bias).normal_(generator=generator))

    def metric(self) -> Tensor:
        q = self.log_q.double().clamp(-LARGEST, LARGEST).exp()
        return dominating_channels(self.weight, q) * self._repeats()
