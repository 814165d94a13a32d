"""Bounds of chains: the product of what is proved of every layer, computed and proved as the checker does it.

The factors come from the checker's own integers (docs/what-is-proved.md): what is written is what it will prove.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

import equilip
from equilip.certify.bounds import Bound, raw_bound
from equilip.certify.pairs import SQRT2, RowBounds
from equilip.chain import Chain
from equilip.checker.chain import parse_chain
from equilip.checker.exact import Budget
from equilip.checker.files import parse_metadata
from equilip.checker.verdict import Refused
from equilip.errors import InputError, ProofError
from equilip.form import write_whole
from equilip.links import Linear, Link, Sandwich, Scale
from equilip.nn.guarantee import Guarantee
from equilip.operators import Dense
from equilip.rounding import Array, gamma, up

#: What is proved of a layer may be so much above its promise, relatively: norms of large matrices are proved no closer.
EACH = 1e-4


@dataclass(frozen=True, eq=False)
class ProductBound(Bound):
    """The product of ``factors``, one for each layer; ``weights`` are what sandwiches need for theirs, None elsewhere.

    There are no multipliers and no assumed slopes: both are empty. ``kinds``: what the layers are.
    """

    factors: tuple[float, ...] = ()
    weights: tuple[tuple[float, ...] | None, ...] = ()
    kinds: tuple[str, ...] = ()

    def save(self, path: str | PathLike[str], *, form_file: str = "form.safetensors") -> None:
        """Write the certificate that ``equilip verify`` checks; ``form_file`` is the form's name beside it."""
        own: dict[str, Any] = {
            "kind": "lipschitz",
            "norm": self.norm,
            "factors": [factor.hex() for factor in self.factors],
            "weights": [None if own is None else [number.hex() for number in own] for own in self.weights],
            "well_posed": True,
        }
        content = {
            "format": "equilip.certificate/1",
            "form": {"file": form_file, "sha256": self.form_sha256},
            "claims": [
                {**own, "units": units, "bound": value.hex()}
                for units, value in (("standardised", self.value), ("raw", self.value_raw))
            ],
            "method": self.method,
            "seconds": round(self.seconds, 6),
            "readable": f"l2 slope at most {self.value:.6g} (standardised input), {self.value_raw:.6g} (raw input)",
            "version": equilip.__version__,
            "note": self.note,
        }
        write_whole(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def product_bound(chain: Chain) -> ProductBound:
    """The product of the layers' proved factors.

    Raises ProofError where a layer's factor cannot be proved, or where checking it would take too long.
    """
    start = time.monotonic()
    content, chain = chain.to_bytes(), chain.detach()
    weights = tuple(_weights(link) for link in chain.links)
    budget, factors = Budget(), []
    with np.errstate(all="ignore"):
        try:
            layers = parse_chain(*parse_metadata(content)).layers
            for number, (layer, own) in enumerate(zip(layers, weights, strict=True)):
                stated = None if own is None else [number.hex() for number in own]
                factors.append(float_above(layer.factor(stated, budget)))
        except Refused as refusal:
            where = f"layer {len(factors)} ({chain.links[len(factors)].kind}): " if factors else ""
            raise ProofError(f"no bound can be proved of this chain: {where}{refusal}") from None
    value = max(float_above(math.prod(map(Fraction, factors), start=Fraction(1))), 2.0**-1000)
    return ProductBound(
        value=value,
        value_raw=raw_bound(chain, value),
        multipliers=np.zeros(0),
        multipliers_raw=np.zeros(0),
        slopes=(),
        method="product",
        inflation=1.0,
        converged=False,
        note="the product of the layers' own bounds, for the network is too large for one form",
        seconds=time.monotonic() - start,
        form_sha256=chain.sha256,
        factors=tuple(factors),
        weights=weights,
        kinds=tuple(link.kind for link in chain.links),
    )


def float_above(number: Fraction) -> float:
    """The smallest float that is not below a number, or its neighbour. ProofError where there is none."""
    try:
        found = float(number)
    except OverflowError:
        raise ProofError("a factor of the bound is beyond the range of numbers") from None
    return found if Fraction(found) >= number else up(found)


def _weights(link: Link) -> tuple[float, ...] | None:
    """The numbers r of a sandwich: the roots of its multipliers, or what makes both halves alike."""
    if not isinstance(link, Sandwich):
        return None
    if link.lam is not None:
        r = link.lam.double().sqrt()
    else:
        forth = link.map.tensors[0].double().flatten(1).norm(dim=1)
        back = link.back.tensors[0].double().transpose(0, 1).flatten(1).norm(dim=1)
        r = torch.where((forth > 0) & (back > 0), (back / forth).sqrt(), torch.ones_like(forth))
    return tuple(r.cpu().tolist())


def product_rows(chain: Chain, bound: ProductBound) -> RowBounds:
    """Bounds for every output and every pair of outputs of a chain, from its ``bound`` and the rows of its last layer.

    Where the last layer is a matrix, y_i - y_j moves by at most ‖a_i - a_j‖ times the factors of all the other layers.
    """
    start = time.monotonic()
    q = chain.out_size
    caps = RowBounds(
        np.full(q, bound.value), up(SQRT2 * bound.value) * (1.0 - np.eye(q)),
        np.full(q, bound.value_raw), up(SQRT2 * bound.value_raw) * (1.0 - np.eye(q)),
        "product", 0.0, bound.form_sha256,
    )  # fmt: skip
    last = _last_rows(chain, bound)
    if last is None:
        return caps
    rows, before = last
    grown = 1.0 + 2.0 * gamma(rows.shape[1] + 8)
    raw = raw_bound(chain, before)
    sizes = np.linalg.norm(rows, axis=1) * grown + 1e-300
    apart = (np.array([np.linalg.norm(row - rows, axis=1) for row in rows]) * grown + 1e-300) * (1.0 - np.eye(q))
    return RowBounds(
        np.minimum(up(sizes * before), caps.outputs),
        np.minimum(up(apart * before) * (1.0 - np.eye(q)), caps.pairs),
        np.minimum(up(sizes * raw), caps.outputs_raw),
        np.minimum(up(apart * raw) * (1.0 - np.eye(q)), caps.pairs_raw),
        "product",
        time.monotonic() - start,
        bound.form_sha256,
    )


def _last_rows(chain: Chain, bound: ProductBound) -> tuple[Array, float] | None:
    """The rows (q, features) of the last layer, and the product of all other factors; None where it is no matrix."""
    links, factors = list(chain.links), [Fraction(factor) for factor in bound.factors]
    scale = Fraction(1)
    while links and isinstance(links[-1], Scale):
        scale *= factors.pop()
        links.pop()
    if not links or not isinstance(links[-1], Linear) or not isinstance(links[-1].map, Dense):
        return None
    rows = links[-1].map.matrix.detach().cpu().double().numpy()
    return rows, float_above(math.prod(factors[:-1], start=scale))


def own_product(chain: Chain, bound: Bound | None) -> ProductBound:
    """``bound`` if it speaks of ``chain``, a new one if it is None; InputError if it is another network's."""
    if bound is None:
        return product_bound(chain)
    if bound.form_sha256 != chain.sha256 or not isinstance(bound, ProductBound):
        raise InputError("the bound is for another network: its sha256 does not match; certify this one first")
    return bound


def check_product(chain: Chain, guarantee: Guarantee | None, bound: Bound | None = None) -> None:
    """Return if the promised bound is proved, up to ``EACH`` for every layer; raise ProofError if not."""
    if guarantee is None or guarantee.bound is None:
        return
    bound = own_product(chain, bound)
    if bound.value > guarantee.bound * (1.0 + EACH) ** len(chain.links):
        raise ProofError(
            f"the network promises the bound {guarantee.bound:.6g}, and the product of what is proved of its layers' "
            f"stored numbers is {bound.value:.6g}: use float64"
        )
