"""A data set in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.form import Standardisation


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled vectors: x float32 in raw units (pixels in [0, 1]), labels int64 in [0, classes).

    train_x: (N, p), train_y: (N,), test_x: (M, p), test_y: (M,). ``shape`` is what one row is as an image
    (channels, height, width), with p numbers in all; (1, 1, p) where it is no image. ``standardisation`` is the
    input layer that a network for this data usually starts with; the data itself stays raw.

    Raises InputError when the parts do not fit together, when x is not finite, or when a label is out of range.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    shape: tuple[int, int, int]
    standardisation: Standardisation | None = None

    def __post_init__(self) -> None:
        p = self.in_features
        for part, x, y in (
            ("training", self.train_x, self.train_y),
            ("test", self.test_x, self.test_y),
        ):
            if x.dim() != 2 or x.shape[1] != p or y.shape != x.shape[:1]:
                raise InputError(
                    f"the {part} data of {self.name} has shapes {tuple(x.shape)} and {tuple(y.shape)}; "
                    f"expected (N, {p}) and (N,)"
                )
            if x.dtype != torch.float32 or y.dtype != torch.int64:
                raise InputError(
                    f"the {part} data of {self.name} is {x.dtype} with labels {y.dtype}; expected float32 and int64"
                )
            if not bool(x.isfinite().all()):
                raise InputError(f"the {part} data of {self.name} holds NaN or infinity")
            if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.classes:
                raise InputError(
                    f"the {part} labels of {self.name} run from {int(y.min())} to {int(y.max())}; "
                    f"expected 0 to {self.classes - 1}"
                )

    @property
    def in_features(self) -> int:
        """p, the length of one row."""
        channels, height, width = self.shape
        return channels * height * width

    @property
    def images(self) -> bool:
        """Whether rows are images, whose pixels have neighbours."""
        return self.shape[1] > 1

    def limit(self, count: int | None) -> Dataset:
        """The first ``count`` samples of each part; all of them for None. InputError below 1."""
        if count is None:
            return self
        if count < 1:
            raise InputError(f"a limit of {count} samples leaves nothing to work with; choose at least 1")
        return replace(
            self,
            train_x=self.train_x[:count],
            train_y=self.train_y[:count],
            test_x=self.test_x[:count],
            test_y=self.test_y[:count],
        )
