"""Chains of layers: the form in a file of format equilip.form/3, and the bound that is the product of the layers' own.

Every layer is a function whose slope in l2 is bounded by a factor f, proved from its stored numbers alone:

    linear       A x + b                       f >= ‖A‖
    activation   σ(x), slopes in [0, u]        f >= u
    potential    x - 2 Wᵀ T⁻¹ σ(W x + b)       f >= max(1, 2 u κ - 1), κ >= ‖diag(s) W‖², s² T >= 1
    sandwich     C σ(V x + b)                  f >= u ‖M‖² / 2, M = [C diag(s); (diag(r) V)ᵀ], r > 0, r s >= 1
    pool         means over blocks of k x k    f >= 1/k, or 1 where they are multiplied by k
    sort, space_to_depth, pad_channels         f >= 1
    scale        g x                           f >= |g|

For two inputs, σ(s) - σ(s') = J (s - s') with a diagonal J in [0, u]. A potential layer takes their difference d to
d - 2 Wᵀ T⁻¹J W d, and 0 <= Wᵀ T⁻¹J W <= u κ. A sandwich's is C J V d = P J' Q d with P = C diag(s), Q = diag(r) V and
J' = J / (r s), again in [0, u]; for unit vectors a and d, with v = Pᵀa and w = Q d,

    aᵀ P J' Q d <= u Σ max(0, v_i w_i) <= u ‖v + w‖² / 4 = u ‖Mᵀ[a; d]‖² / 4 <= u ‖M‖² / 2.

The product of the factors bounds the slope of the whole, and every input has exactly one output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from equilip.checker.exact import Budget, Exact, Floats
from equilip.checker.files import MAX_INPUTS, Record, hexadecimal, natural, parse_block, record, sequence
from equilip.checker.maps import beside, features, norm, parse_image, parse_map, swapped
from equilip.checker.verdict import Claim, Refused

MAX_LAYERS = 256

Tensors = dict[str, Floats]
#: A layer's factor, given what the claim says of it: null, or the numbers r of a sandwich.
Factor = Callable[[object, Budget], Fraction]


@dataclass(frozen=True, eq=False)
class Layer:
    """How many numbers it takes and gives, and the proof of its factor."""

    inputs: int
    outputs: int
    factor: Factor


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers that fit together, after ξ = (x - mean) / std."""

    layers: tuple[Layer, ...]
    std: Floats | None


def parse_slope(entry: object, size: int) -> Fraction:
    """The largest slope of an activation on ``size`` numbers."""
    found, _, most = parse_block(entry, MAX_INPUTS)
    if found != size:
        raise Refused(f"an activation of {found} numbers after {size}")
    return Fraction(most)


def take(tensors: Tensors, required: set[str], vectors: dict[str, int]) -> None:
    """Refuse tensors that a layer does not have, and vectors of other lengths; those not required may be absent."""
    if required - tensors.keys() or tensors.keys() - required - vectors.keys():
        raise Refused(f"a layer has the tensors {sorted(tensors)!a:.200}")
    for name, count in vectors.items():
        if name in tensors and tensors[name].shape != (count,):
            raise Refused(f"{name} has shape {tensors[name].shape}, not ({count},)")


def own_weight(tensors: Tensors, name: str = "weight") -> Floats:
    """The numbers of a map; refused where there are none."""
    if name not in tensors:
        raise Refused(f"a layer has no tensor {name}")
    return tensors[name]


def constant(factor: Fraction) -> Factor:
    """A factor that needs no more than what was read."""

    def proved(weights: object, budget: Budget) -> Fraction:
        nothing(weights)
        return factor

    return proved


def nothing(weights: object) -> None:
    """Refuse weights for a layer whose proof has no use for them."""
    if weights is not None:
        raise Refused("it has weights, which its proof has no use for")


def power_above(number: Fraction, power: int) -> float:
    """A float s with s**power * number >= 1, hardly larger than need be; power is 1 or 2."""
    proposal = 1 / math.sqrt(number) if power == 2 else 1 / float(number)
    for _ in range(64):
        if math.isfinite(proposal) and Fraction(proposal) ** power * number >= 1:
            return proposal
        proposal = math.nextafter(proposal, math.inf)
    raise Refused("the range of magnitudes of the numbers is too large")


def column(numbers: list[float], like: Floats, budget: Budget) -> Exact:
    """One number for each channel that a map gives, of as many dimensions as the map's numbers."""
    return Exact.of(np.array(numbers).reshape(-1, *(1,) * (like.ndim - 1)), budget)


def linear(fields: Record, tensors: Tensors) -> Layer:
    """A x + b."""
    record(fields, "a linear layer", {"kind", "map"})
    own = parse_map(fields["map"], own_weight(tensors))
    take(tensors, {"weight"}, {"bias": len(own.numbers)})

    def factor(weights: object, budget: Budget) -> Fraction:
        nothing(weights)
        return norm(Exact.of(own.numbers, budget), own, budget)

    return Layer(own.inputs, own.outputs, factor)


def activation(fields: Record, tensors: Tensors) -> Layer:
    """σ(x)."""
    record(fields, "an activation", {"kind", "activation"})
    take(tensors, set(), {})
    size, _, most = parse_block(fields["activation"], MAX_INPUTS)
    return Layer(features(size), size, constant(Fraction(most)))


def potential(fields: Record, tensors: Tensors) -> Layer:
    """x - 2 Wᵀ T⁻¹ σ(W x + b)."""
    record(fields, "a potential layer", {"kind", "map", "activation"})
    own = parse_map(fields["map"], own_weight(tensors))
    take(tensors, {"weight", "metric"}, {"metric": len(own.numbers), "bias": len(own.numbers)})
    metric = [Fraction(t) for t in tensors["metric"].tolist()]
    if not all(t > 0 for t in metric):
        raise Refused("a metric is not positive")
    slope = parse_slope(fields["activation"], own.outputs)

    def factor(weights: object, budget: Budget) -> Fraction:
        nothing(weights)
        scaled = column([power_above(t, 2) for t in metric], own.numbers, budget) * Exact.of(own.numbers, budget)
        return max(Fraction(1), 2 * slope * norm(scaled, own, budget) ** 2 - 1)

    return Layer(own.inputs, own.inputs, factor)


def sandwich(fields: Record, tensors: Tensors) -> Layer:
    """C σ(V x + b), both dense, or both circular convolutions of stride 1."""
    record(fields, "a sandwich", {"kind", "map", "back", "activation"})
    own, back = (parse_map(fields[k], own_weight(tensors, name)) for k, name in (("map", "weight"), ("back", "back")))
    take(tensors, {"weight", "back"}, {"bias": len(own.numbers), "lam": len(own.numbers)})
    if own.outputs != back.inputs or own.torus != back.torus or own.plain != back.plain:
        raise Refused("the two maps of a sandwich do not fit together")
    if not own.plain and not (own.circular and back.circular and own.stride == back.stride == 1):
        raise Refused("the maps of a sandwich are neither matrices nor circular convolutions of stride 1")
    slope = parse_slope(fields["activation"], own.outputs)

    def factor(weights: object, budget: Budget) -> Fraction:
        count = len(own.numbers)
        given = sequence(weights, "the weights of a sandwich", count, count)
        numbers = [hexadecimal(entry, "a weight") for entry in given]
        if not all(r > 0.0 for r in numbers):
            raise Refused("a weight is not positive")
        inverse = [power_above(Fraction(r), 1) for r in numbers]
        V = column(numbers, own.numbers, budget) * Exact.of(own.numbers, budget)
        C = column(inverse, own.numbers, budget) * swapped(Exact.of(back.numbers, budget))
        return slope * norm(beside(C, V), own, budget) ** 2 / 2

    return Layer(own.inputs, back.outputs, factor)


def pool(fields: Record, tensors: Tensors) -> Layer:
    """Means over blocks of size x size pixels; the same times the size, where scaled."""
    record(fields, "a pooling", {"kind", "image", "size", "scaled"})
    take(tensors, set(), {})
    (c, h, w), size = parse_image(fields["image"]), natural(fields["size"], "a size", MAX_INPUTS)
    if not size or h % size or w % size or type(fields["scaled"]) is not bool:
        raise Refused("the blocks of a pooling do not divide its image, or it is not said whether it is scaled")
    return Layer(c * h * w, c * h * w // size**2, constant(Fraction(1, 1 if fields["scaled"] else size)))


def space_to_depth(fields: Record, tensors: Tensors) -> Layer:
    """Blocks of size x size pixels become channels: a permutation."""
    record(fields, "a space to depth", {"kind", "image", "size"})
    take(tensors, set(), {})
    (c, h, w), size = parse_image(fields["image"]), natural(fields["size"], "a size", MAX_INPUTS)
    if not size or h % size or w % size:
        raise Refused("the blocks of a space to depth do not divide its image")
    return Layer(c * h * w, c * h * w, constant(Fraction(1)))


def pad_channels(fields: Record, tensors: Tensors) -> Layer:
    """Zeros after the other numbers: an isometry."""
    record(fields, "a padding of channels", {"kind", "inputs", "outputs"})
    take(tensors, set(), {})
    inputs, outputs = (features(natural(fields[name], name, MAX_INPUTS)) for name in ("inputs", "outputs"))
    if outputs < inputs:
        raise Refused("a padding of channels gives fewer numbers than it takes")
    return Layer(inputs, outputs, constant(Fraction(1)))


def sort(fields: Record, tensors: Tensors) -> Layer:
    """Groups of neighbouring channels sorted at every pixel, the smallest first: where two inputs are sorted in the
    same way it is one permutation, and it is continuous."""
    record(fields, "a sorting", {"kind", "image", "group"})
    take(tensors, set(), {})
    (c, h, w), group = parse_image(fields["image"]), natural(fields["group"], "a group", MAX_INPUTS)
    if not group or c % group:
        raise Refused("the groups of a sorting do not divide its channels")
    return Layer(c * h * w, c * h * w, constant(Fraction(1)))


def scale(fields: Record, tensors: Tensors) -> Layer:
    """One number times x."""
    record(fields, "a scale", {"kind", "size", "factor"})
    take(tensors, set(), {})
    size = features(natural(fields["size"], "a size", MAX_INPUTS))
    return Layer(size, size, constant(abs(Fraction(hexadecimal(fields["factor"], "a factor")))))


KINDS: dict[str, Callable[[Record, Tensors], Layer]] = {
    "linear": linear,
    "activation": activation,
    "potential": potential,
    "sandwich": sandwich,
    "pool": pool,
    "space_to_depth": space_to_depth,
    "pad_channels": pad_channels,
    "sort": sort,
    "scale": scale,
}


def parse_chain(fields: Record, tensors: Tensors) -> Chain:
    """The chain of these tensors and this metadata."""
    units = {name: tensor for name, tensor in tensors.items() if name in ("mean", "std")}
    entries = sequence(fields["layers"], "layers", 1, MAX_LAYERS)
    owned: list[Tensors] = [{} for _ in entries]
    for name in tensors.keys() - units.keys():
        number, _, own = name.partition(".")
        if str(int(number)) != number or int(number) >= len(entries):
            raise Refused(f"the tensor {name!a:.80} is of no layer")
        owned[int(number)][own] = tensors[name]
    layers: list[Layer] = []
    for place, entry in enumerate(entries):
        kind = entry.get("kind") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(kind, str) or kind not in KINDS:
            raise Refused(f"layer {place}: nothing is known of the kind {kind!a:.80}")
        try:
            layers.append(KINDS[kind](entry, owned[place]))
        except Refused as refusal:
            raise Refused(f"layer {place}: {refusal}") from None
        if place and layers[-1].inputs != layers[-2].outputs:
            raise Refused(f"layer {place} takes {layers[-1].inputs} numbers and is given {layers[-2].outputs}")
    if len(units) == 1 or any(tensor.shape != (layers[0].inputs,) for tensor in units.values()):
        raise Refused("mean and std must come together, one number for each input")
    std = units.get("std")
    if std is not None and not (std > 0).all():
        raise Refused("std must be positive")
    return Chain(tuple(layers), std)


def prove_product(chain: Chain, claim: object, known: dict[str, Fraction], budget: Budget) -> Claim:
    """The claim, with every layer's factor proved; ``known`` keeps those that an earlier claim had proved."""
    names = {"kind", "norm", "units", "bound", "factors", "weights", "well_posed"}
    fields = record(claim, "the claim", names)
    if (fields["kind"], fields["norm"]) != ("lipschitz", "l2") or fields["well_posed"] is not True:
        raise Refused("only l2 Lipschitz bounds are proved of chains, whose every input has one output")
    if fields["units"] not in ("standardised", "raw"):
        raise Refused("the claim's units are neither standardised nor raw")
    count = len(chain.layers)
    factors = [hexadecimal(factor, "a factor") for factor in sequence(fields["factors"], "factors", count, count)]
    weights = sequence(fields["weights"], "weights", count, count)
    bound = hexadecimal(fields["bound"], "bound")
    if bound <= 0.0:
        raise Refused("the bound must be positive")
    for number, (layer, factor, own) in enumerate(zip(chain.layers, factors, weights, strict=True)):
        key = f"{number} {json.dumps(own)}"
        try:
            if key not in known:
                known[key] = layer.factor(own, budget)
        except Refused as refusal:
            raise Refused(f"layer {number}: {refusal}") from None
        if known[key] > Fraction(factor):
            raise Refused(f"layer {number}: the factor {factor!r} is smaller than what is proved")
    beta = Fraction(bound)
    if fields["units"] == "raw" and chain.std is not None:
        beta *= Fraction(float(chain.std.min()))  # ‖ξ - ξ'‖ <= ‖x - x'‖ / min std
    if math.prod(map(Fraction, factors)) > beta:
        raise Refused("the bound is smaller than the product of the factors")
    return Claim("lipschitz", "l2", str(fields["units"]), bound)


def prove_chain(chain: Chain, claims: list[object]) -> tuple[Claim, ...]:
    """All claims, with one budget of work between them; ``Refused`` names the first that is not proved."""
    budget, proved = Budget(), []
    known: dict[str, Fraction] = {}
    for number, claim in enumerate(claims, 1):
        try:
            proved.append(prove_product(chain, claim, known, budget))
        except Refused as refusal:
            raise Refused(f"claim {number}: {refusal}") from None
    return tuple(proved)
