"""Chains of layers written by hand, and a second opinion on claims about them: dense matrices from the definitions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from checker_artefacts import Array

SLOPES = {"relu": 1.0, "tanh": 1.0, "sigmoid": 0.25, "softplus": 1.0, "identity": 1.0}
Layer = tuple[dict[str, Any], dict[str, Array]]


def chain_bytes(layers: Sequence[Layer], units: dict[str, Array] | None = None) -> bytes:
    tensors = {f"{number}.{name}": own for number, (_, owned) in enumerate(layers) for name, own in owned.items()}
    described = {"format": "equilip.form/3", "layers": [entry for entry, _ in layers]}
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return bytes(safetensors.numpy.save({**tensors, **(units or {})}, metadata={"equilip": text}))


def read(form: bytes) -> tuple[list[Layer], dict[str, Array]]:
    header = json.loads(form[8 : 8 + int.from_bytes(form[:8], "little")])
    described = json.loads(header["__metadata__"]["equilip"])
    tensors = safetensors.numpy.load(form)
    layers = [
        (entry, {name.split(".")[1]: t for name, t in tensors.items() if name.split(".")[0] == str(number)})
        for number, entry in enumerate(described["layers"])
    ]
    return layers, {name: t for name, t in tensors.items() if "." not in name}


def convolution(image: Sequence[int], padding: str, width: int, stride: int = 1) -> dict[str, Any]:
    return {"kind": "convolution", "image": list(image), "padding": padding, "width": width, "stride": stride}


def block(kind: str, size: int, **parameters: float) -> dict[str, Any]:
    return {"kind": kind, "size": size, **{name: float(value).hex() for name, value in parameters.items()}}


def matrix(entry: dict[str, Any], numbers: Array) -> Array:
    """The map as a matrix, pixel by pixel."""
    numbers = numbers.astype(np.float64)
    if entry["kind"] == "dense":
        return numbers
    (c, h, w), p, s = entry["image"], entry["width"], entry["stride"]
    m, _, k, l = numbers.shape  # noqa: E741
    circular = entry["padding"] == "circular"
    tall, wide = (h // s, w // s) if circular else ((h + 2 * p - k) // s + 1, (w + 2 * p - l) // s + 1)
    A = np.zeros((m, tall, wide, c, h, w))
    for i, j, a, b in np.ndindex(tall, wide, k, l):
        y, x = s * i + a - p, s * j + b - p
        if circular:
            y, x = y % h, x % w
        if 0 <= y < h and 0 <= x < w:
            A[:, i, j, :, y, x] += numbers[:, :, a, b]
    return A.reshape(m * tall * wide, c * h * w)


def around(entry: dict[str, Any], numbers: Array) -> Array:
    """The circular convolution that one with zeros around is a part of (docs/formats.md); else the map itself."""
    if entry["kind"] == "dense" or entry["padding"] == "circular":
        return matrix(entry, numbers)
    (c, *image), p, s = entry["image"], entry["width"], entry["stride"]
    sizes = []
    for n, k in zip(image, numbers.shape[2:], strict=True):
        given, coarse = (n + 2 * p - k) // s + 1, math.ceil(n / s)
        sizes.append(s * max(coarse + math.ceil(p / s), given + math.floor((k - 1 - p) / s), coarse, given))
    return matrix(convolution((c, *sizes), "circular", p, s), numbers)


def spread(numbers: Array, rows: int) -> Array:
    return np.repeat(numbers.astype(np.float64), rows // len(numbers))


def factor(layer: Layer, weights: list[str] | None, matrix: Callable[[dict[str, Any], Array], Array] = matrix) -> float:
    """A number that the checker has to be at or above, from the matrices themselves: inf where it has to refuse."""
    entry, own = layer
    slope = SLOPES.get(entry.get("activation", {}).get("kind"), 1.0)
    match entry["kind"]:
        case "linear":
            return float(np.linalg.norm(matrix(entry["map"], own["weight"]), 2))
        case "activation":
            return slope
        case "potential":
            A = matrix(entry["map"], own["weight"])
            T = spread(own["metric"], len(A))
            if not (T > 0).all():
                return math.inf
            return max(1.0, 2 * slope * float(np.linalg.norm(A / np.sqrt(T)[:, None], 2)) ** 2 - 1)
        case "sandwich":
            V, C = matrix(entry["map"], own["weight"]), matrix(entry["back"], own["back"])
            if weights is None:
                return math.inf
            r = spread(np.array([float.fromhex(weight) for weight in weights]), len(V))
            return slope * float(np.linalg.norm(np.vstack([C / r, (r[:, None] * V).T]), 2)) ** 2 / 2
        case "pool":
            return 1.0 if entry["scaled"] else 1.0 / entry["size"]
        case "scale":
            return abs(float.fromhex(entry["factor"]))
    return 1.0


def claims_hold(stated: bytes, form: bytes) -> bool:
    """Whether the claims are true by these matrices; shares nothing with the checker."""
    layers, units = read(form)
    for claim in json.loads(stated)["claims"]:
        bound = float.fromhex(claim["bound"])
        if claim["units"] == "raw" and "std" in units:
            bound *= float(units["std"].astype(np.float64).min())
        product = 1.0
        for layer, weights, said in zip(layers, claim["weights"], claim["factors"], strict=True):
            own = factor(layer, weights)
            if not own <= float.fromhex(said) * (1 + 1e-12):
                return False
            product *= own
        if not product <= bound * (1 + 1e-12):
            return False
    return True


def potential(rng: np.random.Generator, entry: dict[str, Any], numbers: Array, kind: str) -> Layer:
    """A potential layer whose T is just enough, or a little less."""
    A = matrix(entry, numbers)
    T = np.full(len(numbers), np.linalg.norm(A, 2) ** 2 * rng.choice([1.0, 1.3, 0.8]))
    own = {"weight": numbers, "metric": T, "bias": rng.normal(0, 1, len(numbers))}
    return {"kind": "potential", "map": entry, "activation": block(kind, len(A))}, own


def random_chain(rng: np.random.Generator) -> list[Layer]:
    """Layers of every kind on small images: 2 x 4 x 4 in, some numbers out."""
    kind = str(rng.choice(["relu", "tanh", "sigmoid"]))
    padding, stride = str(rng.choice(["zeros", "circular"])), int(rng.integers(1, 3))
    c, k = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    first = convolution((8, 2, 2), "zeros", 1)
    entry = convolution((2, 4, 4), padding, int(rng.integers(0, k + 1)), stride)
    layers: list[Layer] = []
    if entry["padding"] == "zeros" and 4 + 2 * entry["width"] < k:
        entry["width"] = k
    layers.append(potential(rng, entry, rng.normal(0, 1, (c, 2, k, k)), kind))
    layers.append(({"kind": "space_to_depth", "image": [2, 4, 4], "size": 2}, {}))
    layers.append(({"kind": "linear", "map": first}, {"weight": rng.normal(0, 0.2, (4, 8, 3, 3)), "bias": np.ones(4)}))
    layers.append(({"kind": "sort", "image": [4, 2, 2], "group": 2}, {}))
    forth = convolution((4, 2, 2), "circular", 0)
    both = {"weight": rng.normal(0, 0.3, (3, 4, 2, 2)), "back": rng.normal(0, 0.3, (2, 3, 1, 1)), "bias": np.zeros(3)}
    back = convolution((3, 2, 2), "circular", 0)
    layers.append(({"kind": "sandwich", "map": forth, "back": back, "activation": block(kind, 12)}, both))
    layers.append(({"kind": "pool", "image": [2, 2, 2], "size": 2, "scaled": bool(rng.random() < 0.5)}, {}))
    layers.append(({"kind": "pad_channels", "inputs": 2, "outputs": 3}, {}))
    layers.append(potential(rng, {"kind": "dense"}, rng.normal(0, 1, (4, 3)), kind))
    dense = {"weight": rng.normal(0, 1, (3, 3)), "back": rng.normal(0, 1, (2, 3)), "lam": np.ones(3)}
    entry = {"kind": "sandwich", "map": {"kind": "dense"}, "back": {"kind": "dense"}, "activation": block(kind, 3)}
    layers.append((entry, dense))
    layers.append(({"kind": "activation", "activation": block(kind, 2)}, {}))
    layers.append(({"kind": "linear", "map": {"kind": "dense"}}, {"weight": rng.normal(0, 1, (3, 2))}))
    layers.append(({"kind": "scale", "size": 3, "factor": float(rng.normal(0, 2)).hex()}, {}))
    return layers


def weights_of(layers: Sequence[Layer]) -> list[list[str] | None]:
    """What makes both halves of the sandwiches alike."""
    found: list[list[str] | None] = []
    for entry, own in layers:
        if entry["kind"] != "sandwich":
            found.append(None)
            continue
        forth = np.linalg.norm(own["weight"].reshape(len(own["weight"]), -1).astype(np.float64), axis=1)
        back = np.linalg.norm(own["back"].swapaxes(0, 1).reshape(len(forth), -1).astype(np.float64), axis=1)
        found.append([float(r).hex() for r in np.sqrt(back / forth)])
    return found


def product_claim(layers: Sequence[Layer], units: str, std: float = 1.0, excess: float = 4e-6) -> dict[str, Any]:
    """The claim with every factor so much above those of the matrices."""
    weights = weights_of(layers)
    factors = [factor(layer, own, around) * (1 + excess) for layer, own in zip(layers, weights, strict=True)]
    bound = math.prod(factors) * (1 + 1e-14) / (std if units == "raw" else 1.0)
    return {
        "kind": "lipschitz", "norm": "l2", "units": units, "bound": float(bound).hex(), "well_posed": True,
        "factors": [float(f).hex() for f in factors], "weights": weights,
    }  # fmt: skip
