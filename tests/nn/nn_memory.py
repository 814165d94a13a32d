"""What training keeps, against how long the solve was."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.nn.image_equilibrium import ImageEquilibrium
from equilip.solve import Settings


def kept(model: ImageEquilibrium, x: Tensor, tolerance: float) -> tuple[int, int]:
    """Bytes that a solve to this tolerance saves for its gradient, and its iterations."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        solution = model.solve(x, Settings(tolerance=tolerance))
    solution.y.sum().backward()
    return total, solution.iterations
