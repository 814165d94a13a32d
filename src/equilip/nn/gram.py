"""K Kᵀ with a gradient of one product instead of two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Gram(torch.autograd.Function):
    """K (n, k) -> K Kᵀ (n, n). The gradient (G + Gᵀ) K is one product where autograd's rule takes two."""

    generate_vmap_rule = True

    @staticmethod
    def forward(K: Tensor) -> Tensor:
        return K @ K.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (K,) = ctx.saved_tensors
        (G,) = cotangents
        return (G + G.mT) @ K

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (K,) = ctx.saved_tensors
        (dK,) = tangents
        half = dK @ K.mT
        return half + half.mT


def gram(K: Tensor) -> Tensor:
    """K Kᵀ, (n, k) -> (n, n)."""
    return Gram.apply(K)  # type: ignore[no-untyped-call]
