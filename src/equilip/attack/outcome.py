"""attack.npz: what an attack found sample by sample, with a few samples to look at."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equilip.attack.ledger import save_arrays
from equilip.attack.robustness import Robustness
from equilip.errors import FormatError

FORMAT = "equilip.samples/1"

#: Samples to look at, at most.
EXAMPLES = 12

_SHAPES = {
    "radius": ("n",),
    "size": ("n",),
    "label": ("n",),
    "index": ("k",),
    "x": ("k", "p"),
    "adversarial": ("k", "p"),
    "predicted": ("k",),
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """Certified radius and smallest perturbation found of n samples, and k of them as they are and perturbed.

    radius, size: (n,) float64, l2 and raw; size is 0 where the sample is misclassified as it is, infinite where nothing
    was found. label: (n,). index: (k,) of the examples; x, adversarial: (k, p) float64, raw; predicted: (k,) the class
    of the adversarial, -1 where nothing was found. shape: one row as (channels, height, width).
    form_sha256: of the network.
    """

    radius: Tensor
    size: Tensor
    label: Tensor
    index: Tensor
    x: Tensor
    adversarial: Tensor
    predicted: Tensor
    shape: tuple[int, int, int]
    form_sha256: str

    @classmethod
    def of(cls, found: Robustness, x: Tensor, label: Tensor, shape: tuple[int, int, int]) -> Outcome:
        """From what :func:`equilip.attack.robustness` found for raw inputs x (n, p) with labels (n,).

        The examples are the first sample of each class that is classified right, as far as :data:`EXAMPLES` go: chosen
        before anything is known of their radii.
        """
        size = found.attacked.size
        right = (size > 0).nonzero().flatten().tolist()
        first: dict[int, int] = {}
        for number in right:
            first.setdefault(int(label[number]), number)
        index = torch.tensor([first[each] for each in sorted(first)][:EXAMPLES], dtype=torch.int64)
        return cls(
            radius=found.radius,
            size=size,
            label=label.cpu(),
            index=index,
            x=x.cpu()[index].double(),
            adversarial=found.attacked.adversarial[index],
            predicted=found.attacked.predicted[index],
            shape=shape,
            form_sha256=found.form_sha256,
        )

    def certified_accuracy(self, eps: float) -> float:
        """The share of samples with a certified radius above eps."""
        return int((self.radius > eps).sum()) / len(self.radius)

    def attacked_accuracy(self, eps: float) -> float:
        """The share of samples that nothing of size at most eps is known against."""
        return int((self.size > eps).sum()) / len(self.size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a .npz file: all of it, or nothing."""
        arrays = {name: getattr(self, name).numpy() for name in _SHAPES}
        named = {"format": np.array(FORMAT), "form_sha256": np.array(self.form_sha256), "shape": np.array(self.shape)}
        save_arrays(path, **arrays, **named)


def load(path: str | os.PathLike[str]) -> Outcome:
    """Read what :meth:`Outcome.save` wrote. FormatError when the file is anything else."""
    try:
        with np.load(BytesIO(Path(path).read_bytes()), allow_pickle=False) as stored:
            version = str(stored["format"])
            arrays = {name: torch.from_numpy(stored[name]) for name in _SHAPES}
            channels, height, width = (int(size) for size in stored["shape"])
            digest = str(stored["form_sha256"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is not what an attack of equilip writes, or it is damaged: {error}") from error
    if version != FORMAT:
        raise FormatError(f"{path} has format {version!r}; this version of equilip reads {FORMAT!r}")
    sizes = {"n": len(arrays["radius"]), "k": len(arrays["index"]), "p": channels * height * width}
    for name, shape in _SHAPES.items():
        expected = tuple(sizes[letter] for letter in shape)
        if tuple(arrays[name].shape) != expected:
            raise FormatError(f"{path}: {name} has shape {tuple(arrays[name].shape)}; expected {expected}")
    if not sizes["n"] or not bool(((arrays["index"] >= 0) & (arrays["index"] < sizes["n"])).all()):
        raise FormatError(f"{path}: there are no samples, or the examples are none of them")
    return Outcome(**arrays, shape=(channels, height, width), form_sha256=digest)
