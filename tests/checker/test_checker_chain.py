"""Claims about chains of layers: proved when true, refused when they are not, and whatever is done to them."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checker_artefacts import Array, certificate, form_bytes, lben, verdict_on
from checker_attacks import flipped_form, flipped_form_with_new_digest, tamper
from checker_chains import (
    Layer,
    block,
    chain_bytes,
    claims_hold,
    convolution,
    factor,
    matrix,
    product_claim,
    random_chain,
    weights_of,
)

from equilip.checker import Verdict

SEED = 20251122
CASES = 360
DENSE = {"kind": "dense"}


def judged(folder: Path, layers: list[Layer], claim: dict[str, Any] | None = None, **changes: Any) -> Verdict:
    form = chain_bytes(layers)
    own = product_claim(layers, "standardised") if claim is None else claim
    return verdict_on(folder, certificate(form, {**own, **changes}), form)


def linear(A: Array, **more: Array) -> Layer:
    return {"kind": "linear", "map": DENSE}, {"weight": A, **more}


def test_random_chains_are_proved_just_above_what_their_matrices_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    for number in range(8):
        layers = random_chain(rng)
        form = chain_bytes(layers)
        stated = certificate(form, product_claim(layers, "standardised"), product_claim(layers, "raw"))
        verdict = verdict_on(tmp_path, stated, form)
        assert verdict.valid, (number, verdict.reason)
        assert [claim.units for claim in verdict.claims] == ["standardised", "raw"]
        for index in range(len(layers)):
            low = product_claim(layers, "standardised")
            said = float.fromhex(low["factors"][index]) * (1 - 1e-5)
            low["factors"][index] = said.hex()
            assert not judged(tmp_path, layers, low).valid, (number, layers[index][0]["kind"])


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(4, 6), (6, 3), (1, 6), (6, 6)])
def test_convolutions_of_every_padding_and_stride(
    padding: str, stride: int, size: tuple[int, int], tmp_path: Path
) -> None:
    rng = np.random.default_rng(SEED + stride)
    for k in (1, 2, 3, 5):
        for width in range(4):
            K = rng.normal(0, 1, (2, 2, k, k))
            fits = all(n + 2 * width >= k for n in size) if padding == "zeros" else not any(n % stride for n in size)
            layer: Layer = ({"kind": "linear", "map": convolution((2, *size), padding, width, stride)}, {"weight": K})
            if not fits:
                assert not judged(tmp_path, [layer], product_claim([linear(np.eye(2))], "raw")).valid
                continue
            claim = product_claim([layer], "raw")
            assert judged(tmp_path, [layer], claim).valid, (k, width)
            assert factor(layer, None) <= float.fromhex(claim["bound"]), (k, width)
            assert not judged(tmp_path, [layer], product_claim([layer], "raw", excess=-1e-6)).valid, (k, width)


def test_the_torus_of_a_padded_convolution_is_larger_than_its_image(tmp_path: Path) -> None:
    """The zero-padded norm can exceed that of the circular convolution on the image itself (mathematics 6)."""
    rng = np.random.default_rng(4)
    larger = 0
    for _ in range(200):
        K, image = rng.normal(0, 1, (1, 1, 3, 3)), (1, 2, 2)
        own = float(np.linalg.norm(matrix(convolution(image, "zeros", 1), K), 2))
        around = float(np.linalg.norm(matrix(convolution(image, "circular", 1), K), 2))
        if own > around * 1.01:
            larger += 1
            layer: Layer = ({"kind": "linear", "map": convolution(image, "zeros", 1)}, {"weight": K})
            claim = product_claim([layer], "raw") | {"factors": [around.hex()], "bound": around.hex()}
            assert not judged(tmp_path, [layer], claim).valid
    assert larger > 5


def test_units_and_exact_products(tmp_path: Path) -> None:
    layers = [linear(np.diag([2.0, 1.0]))]
    mean, std = np.zeros(2), np.array([0.1, 0.5])
    form = chain_bytes(layers, {"mean": mean, "std": std})
    for units, bound, valid in (
        ("standardised", 2.0, True), ("standardised", math.nextafter(2.0, 0), False),
        ("raw", 20.0, True), ("raw", 2.0, False), ("raw", 19.9999999, False),
    ):  # fmt: skip
        claim = product_claim(layers, units) | {"factors": [(2.0).hex()], "bound": bound.hex()}
        assert verdict_on(tmp_path, certificate(form, claim), form).valid == valid, (units, bound)
    # The cube of 1 + 2⁻²⁰ is between two floats, and float64 would round it down.
    one = 1 + 2.0**-20
    three = [linear(np.array([[one]])) for _ in range(3)]
    for bound, valid in ((one**3, False), (math.nextafter(one**3, 2.0), True)):
        claim = product_claim(three, "raw") | {"factors": [one.hex()] * 3, "bound": bound.hex()}
        assert judged(tmp_path, three, claim).valid == valid


def relu(size: int) -> Layer:
    return {"kind": "activation", "activation": block("relu", size)}, {}


ONE = np.eye(2)
HALF: dict[str, Array] = {"weight": ONE, "metric": np.ones(2), "bias": np.zeros(2)}
STEP = {"kind": "potential", "map": DENSE, "activation": block("relu", 2)}
BOTH = {"kind": "sandwich", "map": DENSE, "back": DENSE, "activation": block("relu", 2)}
CONV = {"kind": "linear", "map": convolution((1, 4, 4), "zeros", 1)}
K3 = np.ones((1, 1, 3, 3)) / 9


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([linear(np.ones((3, 2))), linear(ONE)], "layer 1 takes 2 numbers and is given 3"),
        ([linear(ONE), relu(3)], "layer 1 takes 3 numbers and is given 2"),
        ([({**STEP}, {**HALF, "metric": np.array([1.0, -1.0])})], "a metric is not positive"),
        ([({**STEP}, {**HALF, "metric": np.array([1.0, 0.0])})], "a metric is not positive"),
        ([({**STEP}, {**HALF, "metric": np.ones(3)})], r"metric has shape \(3,\), not \(2,\)"),
        ([({**STEP}, {"weight": ONE, "bias": np.ones(2)})], "a layer has the tensors"),
        ([({**STEP}, {**HALF, "extra": np.ones(2)})], "a layer has the tensors"),
        ([({**STEP, "activation": block("relu", 3)}, HALF)], "an activation of 3 numbers after 2"),
        ([({**STEP, "activation": block("gelu", 2)}, HALF)], "a block of neurons is of unknown kind 'gelu'"),
        ([({**STEP, "activation": block("leaky_relu", 2, negative_slope=1.5)}, HALF)], "make no leaky_relu"),
        ([linear(ONE), ({"kind": "activation", "activation": block("elu", 2, alpha=2.0)}, {})], "make no elu"),
        ([({**BOTH}, {"weight": ONE, "back": np.ones((2, 3))})], "the two maps of a sandwich do not fit together"),
        ([({**BOTH}, {"weight": ONE})], "a layer has no tensor back"),
        (
            [({**BOTH, "map": CONV["map"], "back": CONV["map"], "activation": block("relu", 16)},
              {"weight": K3, "back": K3})],
            "neither matrices nor circular convolutions of stride 1",
        ),
        ([({"kind": "linear", "map": {"kind": "sparse"}}, {"weight": ONE})], "nothing is known of maps of kind"),
        ([({"kind": "linear"}, {"weight": ONE})], "lacks the keys"),
        ([({"kind": "linear", "map": DENSE}, {"weight": np.ones(4)})], r"a dense map has numbers of shape \(4,\)"),
        ([({"kind": "linear", "map": DENSE}, {"weight": ONE, "bias": np.ones(3)})], r"bias has shape \(3,\)"),
        ([({"kind": "linear", "map": DENSE}, {"bias": ONE})], "a layer has no tensor weight"),
        ([({**CONV}, {"weight": np.ones((1, 2, 3, 3))})], "a convolution of 1 channels has a kernel of shape"),
        ([({**CONV, "map": convolution((1, 4, 4), "reflect", 1)}, {"weight": K3})], "nothing is known of the padding"),
        ([({**CONV, "map": convolution((1, 4, 4), "zeros", -1)}, {"weight": K3})], "width is not an integer from 0"),
        ([({**CONV, "map": convolution((1, 4, 4), "zeros", 1, 0)}, {"weight": K3})], "and stride 0"),
        ([({**CONV, "map": convolution((1, 5, 4), "circular", 1, 2)}, {"weight": K3})], "a circular convolution of "),
        ([({**CONV, "map": convolution((1, 1, 4), "zeros", 0)}, {"weight": K3})], "is larger than an image of 1 pix"),
        ([({**CONV, "map": convolution((1, 999, 999), "zeros", 1)}, {"weight": K3})], "more than this program checks"),
        ([({**CONV, "map": convolution((1, 0, 4), "zeros", 1)}, {"weight": K3})], "a layer of 0 numbers"),
        ([linear(ONE), ({"kind": "pool", "image": [2, 1, 1], "size": 2, "scaled": True}, {})], "do not divide"),
        ([linear(ONE), ({"kind": "pool", "image": [2, 1, 1], "size": 0, "scaled": True}, {})], "do not divide"),
        ([linear(ONE), ({"kind": "pool", "image": [2, 1, 1], "size": 1, "scaled": 1}, {})], "not said whether"),
        ([linear(ONE), ({"kind": "space_to_depth", "image": [2, 1, 1], "size": 2}, {})], "do not divide"),
        ([linear(ONE), ({"kind": "sort", "image": [2, 1, 1], "group": 3}, {})], "do not divide"),
        ([linear(ONE), ({"kind": "pad_channels", "inputs": 2, "outputs": 1}, {})], "fewer numbers than it takes"),
        ([linear(ONE), ({"kind": "scale", "size": 2, "factor": "2.0"}, {})], "canonical hexadecimal"),
        ([linear(ONE), ({"kind": "scale", "size": 2, "factor": (2.0).hex(), "more": 1}, {})], "unknown keys"),
        ([linear(ONE), ({"kind": "dropout"}, {})], "nothing is known of the kind 'dropout'"),
        ([linear(ONE), ([], {})], "nothing is known of the kind None"),
        ([linear(ONE), ({"kind": []}, {})], "nothing is known of the kind None|nothing is known of the kind"),
    ],
)  # fmt: skip
def test_chains_that_make_no_sense_are_refused(layers: list[Any], reason: str, tmp_path: Path) -> None:
    claim = product_claim([linear(ONE)], "standardised")
    count = len(layers)
    own = {**claim, "factors": claim["factors"] * count, "weights": [None] * count}
    verdict = judged(tmp_path, layers, own)
    assert verdict.exit_status == 1
    assert re.search(reason, verdict.reason), verdict.reason


SQUARE = 2 * np.array([[3.0, 4.0], [-4.0, 3.0]])


@pytest.mark.parametrize("kind", ["relu", "tanh", "sigmoid", "identity"])
def test_a_step_that_is_too_long_is_worth_what_it_is(kind: str, tmp_path: Path) -> None:
    """κ T >= W Wᵀ gives 2 κ - 1, and the slopes of σ count."""
    own = {"weight": SQUARE, "metric": np.full(2, 50.0), "bias": np.zeros(2)}
    layer: Layer = ({**STEP, "activation": block(kind, 2)}, own)
    true = max(1.0, 2 * (0.25 if kind == "sigmoid" else 1.0) * 100 / 50 - 1)
    assert factor(layer, None) == pytest.approx(true, rel=1e-12)
    for excess, valid in ((2e-6, True), (-1e-9, False)):
        assert judged(tmp_path, [layer], product_claim([layer], "raw", excess=excess)).valid == valid
    slow: Layer = ({**STEP, "activation": block(kind, 2)}, {**own, "metric": np.full(2, 100.0 * (1 + 1e-5))})
    assert judged(tmp_path, [slow], product_claim([slow], "raw", excess=0.0)).valid


def test_weights_of_a_sandwich(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    layer: Layer = ({**BOTH}, {"weight": rng.normal(0, 1, (2, 2)) * 1e3, "back": rng.normal(0, 1, (2, 2)) * 1e-3})
    good = product_claim([layer], "raw")
    assert judged(tmp_path, [layer], good).valid
    bad: list[Any] = [None, [], good["weights"][0][:1], [(-1.0).hex()] * 2, [(0.0).hex()] * 2, [1.0, 1.0], "ab"]
    bad += [[(1.0).hex()] * 2, ["0x0.0000000000001p-1022"] * 2]
    for weights in bad:
        assert not judged(tmp_path, [layer], good, weights=[weights]).valid, weights
    plain = linear(ONE)
    assert "no use for" in judged(tmp_path, [plain], product_claim([plain], "raw"), weights=[[]]).reason


def test_formats_do_not_mix(tmp_path: Path) -> None:
    tensors, _ = lben(np.random.default_rng(20), 4, 3, 2, gamma=1.0)
    dense = form_bytes(tensors, [{"kind": "relu", "size": 4}]).replace(b"equilip.form/1", b"equilip.form/3")
    layers = [linear(ONE)]
    claim = product_claim(layers, "raw")
    assert "neither" in verdict_on(tmp_path, certificate(dense, claim), dense).reason
    form = chain_bytes(layers).replace(b"equilip.form/3", b"equilip.form/1")
    assert "its tensors are those of" in verdict_on(tmp_path, certificate(form, claim), form).reason
    for change in ({"kind": "monotone"}, {"norm": "linf"}, {"well_posed": 1}, {"units": "pixels"}, {"bound": "1"}):
        assert not judged(tmp_path, layers, claim, **change).valid, change
    zero = {"factors": [(0.0).hex()], "bound": (0.0).hex()}
    assert "must be positive" in judged(tmp_path, [linear(0 * ONE)], claim, **zero).reason
    for name in ("1.weight", "00.weight", "0.Weight", "W"):
        own = chain_bytes(layers).replace(b"0.weight", name.encode().rjust(8, b" "))
        assert not verdict_on(tmp_path, certificate(own, claim), own).valid, name


class Case:
    """A valid pair of files, every factor tight to a few millionths."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.layers = random_chain(rng)
        dtype = rng.choice([np.float32, np.float64])
        self.layers = [(entry, {name: t.astype(dtype) for name, t in own.items()}) for entry, own in self.layers]
        self.units: dict[str, Array] = {}
        if rng.random() < 0.5:
            self.units = {"mean": np.zeros(32, dtype), "std": rng.uniform(0.3, 2, 32).astype(dtype)}
        least = float(self.units["std"].min()) if self.units else 1.0
        units = str(rng.choice(["raw", "standardised"]))
        self.claim = product_claim(self.layers, units, least)
        self.form = chain_bytes(self.layers, self.units)

    def certificate(self, form: bytes | None = None, **changes: Any) -> bytes:
        stated = certificate(self.form if form is None else form, {**self.claim, **changes})
        return json.dumps(stated).encode()

    def altered(self, layers: list[Layer]) -> Files:
        form = chain_bytes(layers, self.units)
        return self.certificate(form), form

    def chosen(self) -> tuple[int, str]:
        """A tensor that matters: of which layer, and its name."""
        names = [(n, name) for n, (_, own) in enumerate(self.layers) for name in own if name not in ("bias", "lam")]
        return names[int(self.rng.integers(len(names)))]


Files = tuple[bytes, bytes]
Attack = Callable[[Case], Files]


def lower_factor(case: Case) -> Files:
    index = int(case.rng.integers(len(case.layers)))
    factors = list(case.claim["factors"])
    factors[index] = (float.fromhex(factors[index]) * (1 - 10.0 ** -case.rng.uniform(0, 5))).hex()
    return case.certificate(factors=factors), case.form


def lower_bound(case: Case) -> Files:
    return case.certificate(bound=(float.fromhex(case.claim["bound"]) * (1 - 1e-12)).hex()), case.form


def lower_both(case: Case) -> Files:
    index = int(case.rng.integers(len(case.layers)))
    scale = 1 - 1e-4
    factors = list(case.claim["factors"])
    factors[index] = (float.fromhex(factors[index]) * scale).hex()
    bound = (float.fromhex(case.claim["bound"]) * scale * (1 + 1e-13)).hex()
    return case.certificate(factors=factors, bound=bound), case.form


def bad_factor(case: Case) -> Files:
    values: list[Any] = [
        None,
        "nan",
        "inf",
        1.0,
        True,
        [],
        "-0x1.0000000000000p+0",
        "0x1p+0",
        "0x1.0000000000000p+1024",
    ]
    factors = list(case.claim["factors"])
    factors[int(case.rng.integers(len(factors)))] = values[int(case.rng.integers(len(values)))]
    return case.certificate(factors=factors), case.form


def other_lists(case: Case) -> Files:
    name = str(case.rng.choice(["factors", "weights"]))
    own = list(case.claim[name])
    changed: list[Any] = [own[:-1], [*own, own[0]], [], {}, None]
    return case.certificate(**{name: changed[int(case.rng.integers(len(changed)))]}), case.form


def bad_weight(case: Case) -> Files:
    weights = copy.deepcopy(case.claim["weights"])
    index = next(n for n, own in enumerate(weights) if own is not None)
    values: list[Any] = [(-1.0).hex(), (0.0).hex(), "nan", None, 1.0]
    weights[index][0] = values[int(case.rng.integers(len(values)))]
    return case.certificate(weights=weights), case.form


def other_weights(case: Case) -> Files:
    weights = copy.deepcopy(case.claim["weights"])
    index = [n for n, own in enumerate(weights) if own is not None][int(case.rng.integers(2))]
    weights[index] = [float(float.fromhex(r) * 2.0 ** case.rng.uniform(-1, 1)).hex() for r in weights[index]]
    return case.certificate(weights=weights), case.form


def larger_numbers(case: Case) -> Files:
    number, name = case.chosen()
    layers = copy.deepcopy(case.layers)
    grow = 1 + 10.0 ** -case.rng.uniform(0, 4)
    tensor = layers[number][1][name]
    layers[number][1][name] = (tensor / grow if name == "metric" else tensor * grow).astype(tensor.dtype)
    return case.altered(layers)


def spoilt_numbers(case: Case) -> Files:
    number, name = case.chosen()
    layers = copy.deepcopy(case.layers)
    tensor = layers[number][1][name]
    tensor.flat[int(case.rng.integers(tensor.size))] = case.rng.choice([np.nan, np.inf, -np.inf])
    return case.altered(layers)


def flipped_sign(case: Case) -> Files:
    number, name = case.chosen()
    layers = copy.deepcopy(case.layers)
    tensor = layers[number][1][name]
    index = int(case.rng.integers(tensor.size))
    tensor.flat[index] = -tensor.flat[index]
    return case.altered(layers)


def swapped_layers(case: Case) -> Files:
    layers = list(case.layers)
    a, b = case.rng.choice(len(layers), 2, replace=False)
    layers[a], layers[b] = layers[b], layers[a]
    return case.altered(layers)


def missing_layer(case: Case) -> Files:
    layers = list(case.layers)
    del layers[int(case.rng.integers(len(layers)))]
    return case.altered(layers)


def twice_a_layer(case: Case) -> Files:
    layers = list(case.layers)
    index = int(case.rng.integers(len(layers)))
    return case.altered([*layers[: index + 1], *layers[index:]])


def other_layer(case: Case) -> Files:
    """Something that the header says of a layer, changed."""
    layers = copy.deepcopy(case.layers)
    entry = layers[int(case.rng.integers(len(layers)))][0]
    values: list[Any] = [
        0,
        1,
        2,
        3,
        -1,
        True,
        False,
        None,
        "zeros",
        "circular",
        "linear",
        "potential",
        "sort",
        [2, 4, 4],
    ]
    values += [{}, "0x1.8000000000000p+0", block("sigmoid", 2), block("relu", 12)]
    inner = [own for own in entry.values() if isinstance(own, dict)]
    place = entry if not inner or case.rng.random() < 0.4 else inner[int(case.rng.integers(len(inner)))]
    name = str(case.rng.choice(list(place)))
    place[name] = values[int(case.rng.integers(len(values)))]
    return case.altered(layers)


def other_digest(case: Case) -> Files:
    stated = json.loads(case.certificate())
    stated["form"]["sha256"] = hashlib.sha256(case.form[:-1]).hexdigest()
    return json.dumps(stated).encode(), case.form


def smaller_std(case: Case) -> Files:
    units = {name: (tensor / 1.01).astype(tensor.dtype) for name, tensor in case.units.items()}
    form = chain_bytes(case.layers, units)
    return case.certificate(form), form


ALWAYS_CAUGHT: list[Attack] = [lower_both, bad_factor, other_lists, bad_weight, spoilt_numbers, flipped_form]
ALWAYS_CAUGHT += [other_digest, missing_layer, twice_a_layer]
CAUGHT_WHERE_FALSE: list[Attack] = [lower_factor, lower_bound, other_weights, larger_numbers, flipped_sign]
CAUGHT_WHERE_FALSE += [swapped_layers, other_layer, flipped_form_with_new_digest, smaller_std]


def test_tampering(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    tamper(
        tmp_path,
        lambda: Case(rng),
        ALWAYS_CAUGHT,
        CAUGHT_WHERE_FALSE,
        claims_hold,
        cases=CASES,
        each=len(ALWAYS_CAUGHT),
    )


def test_the_second_opinion_knows_the_weights() -> None:
    layers = random_chain(np.random.default_rng(0))
    assert [own is not None for own in weights_of(layers)] == [entry["kind"] == "sandwich" for entry, _ in layers]
