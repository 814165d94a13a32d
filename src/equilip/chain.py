"""Networks too large for one form: a chain of layers, and the file that carries it (format equilip.form/3).

A chain says the same of its network as a form does, layer by layer. Its certificates are products of the layers'
bounds, because the matrices that a smaller bound needs would be too large.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from equilip import form as forms
from equilip import links
from equilip.errors import FormatError, InputError
from equilip.form import Form, Standardisation, write_whole
from equilip.links import Link

FORMAT = "equilip.form/3"


@dataclass(frozen=True, eq=False)
class Chain:
    """One function after the other, of ξ = (x - mean) / std.

    Raises InputError for links that do not fit together, that are of several number formats, or that hold no numbers.
    """

    links: tuple[Link, ...]
    standardisation: Standardisation | None = None

    def __post_init__(self) -> None:
        for link, following in pairwise(self.links):
            if link.out_size != following.in_size:
                raise InputError(f"a layer gives {link.out_size} numbers, the next takes {following.in_size}")
        found = [tensor for link in self.links for tensor in link.tensors().values()]
        if not found:
            raise InputError("none of a chain's layers has parameters: there is nothing to keep")
        units = self.standardisation
        if units is not None:
            if units.mean.shape != (self.in_size,):
                raise InputError(f"the standardisation is for {len(units.mean)} inputs, not {self.in_size}")
            found += [units.mean, units.std]
        if len({tensor.dtype for tensor in found}) > 1:
            raise InputError(f"a chain has one number format, got {sorted({str(tensor.dtype) for tensor in found})}")

    @property
    def in_size(self) -> int:
        return self.links[0].in_size

    @property
    def out_size(self) -> int:
        return self.links[-1].out_size

    @property
    def hidden_size(self) -> int:
        """How many neurons there are."""
        return sum(link.neurons for link in self.links)

    @property
    def dtype(self) -> torch.dtype:
        return self._any.dtype

    @property
    def device(self) -> torch.device:
        return self._any.device

    @property
    def _any(self) -> Tensor:
        return next(tensor for link in self.links for tensor in link.tensors().values())

    def standardise(self, x: Tensor) -> Tensor:
        """ξ, the standardised input, (batch, p)."""
        return x if self.standardisation is None else self.standardisation.apply(x)

    def apply(self, x: Tensor) -> Tensor:
        """The output (batch, q) of raw inputs (batch, p), differentiable."""
        if x.dim() != 2 or x.shape[1] != self.in_size:
            raise InputError(f"expected inputs of shape (batch, {self.in_size}), got {tuple(x.shape)}")
        if x.dtype != self.dtype:
            raise InputError(f"the inputs are {x.dtype} and the network is {self.dtype}; convert one of them")
        y = self.standardise(x)
        for link in self.links:
            y = link.apply(y)
        return y

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Chain:
        """The same chain in another number format or on another device."""
        units = self.standardisation
        return Chain(
            tuple(link.to(dtype, device) for link in self.links), None if units is None else units.to(dtype, device)
        )

    def detach(self) -> Chain:
        """The same numbers without their history."""
        own = {name: tensor.detach() for name, tensor in self._tensors().items()}
        return replace(_chain(self._described(), own), standardisation=self.standardisation)

    def _described(self) -> list[dict[str, Any]]:
        return [{"kind": link.kind, **link.describe()} for link in self.links]

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, link in enumerate(self.links)
            for name, tensor in link.tensors().items()
        }

    def to_bytes(self) -> bytes:
        """The chain as a safetensors file; the same numbers always give the same bytes.

        Raises InputError for numbers that are not finite, and for operators that files do not know.
        """
        tensors = self._tensors()
        if self.standardisation is not None:
            tensors |= {"mean": self.standardisation.mean, "std": self.standardisation.std}
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise InputError(f"{name} holds NaN or infinity: such a network cannot be saved")
        header = {"format": FORMAT, "layers": self._described()}
        text = json.dumps(header, sort_keys=True, separators=(",", ":"))
        content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return safetensors.torch.save(content, metadata={"equilip": text})

    @property
    def sha256(self) -> str:
        """The digest of the file that :meth:`save` writes, which certificates name."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the chain to a file (all of it or nothing) and return the file's sha256."""
        content = self.to_bytes()
        write_whole(Path(path), content)
        return hashlib.sha256(content).hexdigest()


#: What a network is kept as: one equation, or a chain where that would be too large.
Network = Form | Chain


def load(path: str | os.PathLike[str]) -> Network:
    """Read the form or the chain that ``save`` wrote. FormatError when the file is anything else."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["equilip"])
            if header["format"] != FORMAT:
                return forms.load(path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError):
        return forms.load(path)  # which says what is wrong
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64) or not bool(tensor.isfinite().all()):
            raise FormatError(f"{path}: tensor {name} is not all finite float32 or float64 numbers")
    try:
        units = {name: tensors.pop(name) for name in ("mean", "std") if name in tensors}
        standardisation = Standardisation(units["mean"], units["std"]) if units else None
        return replace(_chain(header["layers"], tensors), standardisation=standardisation)
    except (FormatError, InputError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{path} does not hold a chain of layers: {error}") from error


def _chain(described: Sequence[dict[str, Any]], tensors: dict[str, Tensor]) -> Chain:
    parts = []
    for number, entry in enumerate(described):
        own = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] == str(number)}
        parts.append(links.restore(entry, {name.partition(".")[2]: tensor for name, tensor in own.items()}))
    if len(tensors) != sum(len(part.tensors()) for part in parts):
        raise FormatError("tensors that belong to no layer")
    return Chain(tuple(parts))
