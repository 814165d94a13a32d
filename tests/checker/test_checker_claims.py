"""What is accepted and what is refused: bounds by construction, tight ones, general slopes, units, near-singularity."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checker_artefacts import Array, certificate, form_bytes, lben, lipschitz_claim, verdict_on
from checker_rational import claims_hold, lipschitz_matrix, positive_definite

from equilip.checker import Claim
from equilip.checker.exact import Budget
from equilip.checker.files import Form
from equilip.checker.quadratic import gram_above


def block(kind: str, size: int, **parameters: float) -> dict[str, Any]:
    return {"kind": kind, "size": size, **{name: value.hex() for name, value in parameters.items()}}


def accepted(directory: Path, tensors: dict[str, Array], blocks: list[dict[str, Any]], claim: dict[str, Any]) -> bool:
    """The verdict; where it is VALID, the claim's matrix must be positive definite in exact fractions."""
    form = form_bytes(tensors, blocks)
    stated = json.dumps(certificate(form, claim)).encode()
    verdict = verdict_on(directory, stated, form)
    if verdict.valid:
        assert claims_hold(stated, form)
        assert verdict.claims == (Claim("lipschitz", "l2", claim["units"], float.fromhex(claim["bound"])),)
    else:
        assert verdict.claims == ()
        assert verdict.reason
    return verdict.valid


def smallest_bound(tensors: dict[str, Array], lam: Array, lower: Array, upper: Array, raw: bool = False) -> float:
    """The bound where these multipliers make the matrix of mathematics 9.3 singular, in floating point."""
    W, U, C = (tensors[name].astype(np.float64) for name in "WUC")
    n, p = U.shape
    D = tensors.get("D", np.zeros((C.shape[0], p))).astype(np.float64)
    N, Y, E = np.hstack([W, U]), np.hstack([C, D]), np.eye(n, n + p)
    cross = E.T @ np.diag(lam * (lower + upper)) @ N
    M = 2 * E.T @ np.diag(lam) @ E + 2 * N.T @ np.diag(lam * lower * upper) @ N - cross - cross.T - Y.T @ Y
    schur = M[n:, :n] @ np.linalg.solve(M[:n, :n], M[:n, n:]) - M[n:, n:]
    assert np.linalg.eigvalsh(M[:n, :n]).min() > 0
    std = tensors["std"].astype(np.float64) if raw and "std" in tensors else np.ones(p)
    return float(np.sqrt(np.linalg.eigvalsh(schur / std / std[:, None]).max()))


def random_case(rng: np.random.Generator, size: int = 6) -> tuple[dict[str, Array], list[dict[str, Any]], Array]:
    """A random small form of one or two blocks of any kinds, with multipliers for which some bound holds."""
    n, p, q = (int(k) for k in rng.integers([2, 1, 1], [size, size, 4]))
    tensors, lam = lben(rng, n, p, q, gamma=float(rng.uniform(0.3, 3)))
    tensors = {name: tensor.astype(rng.choice([np.float32, np.float64])) for name, tensor in tensors.items()}
    dtype = tensors["W"].dtype
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    if rng.random() < 0.5:
        tensors["D"] = rng.normal(0, 0.2, (q, p)).astype(dtype)
    if rng.random() < 0.5:
        tensors["mean"] = rng.normal(0, 1, p).astype(dtype)
        tensors["std"] = rng.uniform(0.1, 2, p).astype(dtype)
    kinds = [
        block("relu", 1),
        block("tanh", 1),
        block("softplus", 1),
        block("elu", 1, alpha=0.7),
        block("hardtanh", 1, lower=-1.0, upper=6.0),
        block("sigmoid", 1),
        block("leaky_relu", 1, negative_slope=float(rng.uniform(0, 1))),
        block("identity", 1),
    ]
    first = int(rng.integers(0, n + 1))
    blocks = [{**kinds[int(rng.integers(len(kinds)))], "size": count} for count in (first, n - first)]
    return tensors, blocks, lam


def interval(stated: dict[str, Any]) -> tuple[float, float]:
    match stated["kind"]:
        case "sigmoid":
            return 0.0, 0.25
        case "identity":
            return 1.0, 1.0
        case "leaky_relu":
            return float.fromhex(stated["negative_slope"]), 1.0
    return 0.0, 1.0


def test_the_bound_of_a_parametrisation_is_proved_in_both_formats_and_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    for dtype in (np.float32, np.float64):
        tensors, lam = lben(rng, 12, 20, 3, gamma=2.0)
        tensors |= {"mean": rng.normal(size=20), "std": rng.uniform(0.2, 0.4, 20), "lam": lam}
        tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
        blocks = [block("relu", 12)]
        assert accepted(tmp_path, tensors, blocks, lipschitz_claim(2.0, lam))
        # In raw units the slopes are larger by up to 1 / min(std) (trap 18), and the same multipliers prove that.
        raw = 2.0 / float(tensors["std"].min()) * (1 + 1e-12)
        assert accepted(tmp_path, tensors, blocks, lipschitz_claim(raw, lam, units="raw"))
        assert not accepted(tmp_path, tensors, blocks, lipschitz_claim(2.0, lam, units="raw"))


def test_raw_and_standardised_are_the_same_without_a_standardisation(tmp_path: Path) -> None:
    tensors, lam = lben(np.random.default_rng(11), 5, 4, 2, gamma=1.0)
    tight = smallest_bound(tensors, lam, np.zeros(5), np.ones(5))
    for units in ("raw", "standardised"):
        blocks = [block("relu", 5)]
        assert accepted(tmp_path, tensors, blocks, lipschitz_claim(tight * (1 + 1e-9), lam, units=units))
        assert not accepted(tmp_path, tensors, blocks, lipschitz_claim(tight * (1 - 1e-9), lam, units=units))


@pytest.mark.parametrize("seed", range(6))
def test_near_singular_claims_agree_with_rational_ldl(seed: int, tmp_path: Path) -> None:
    """50 cases per seed within 1e-6 to 1e-17 (relative) of the bound where the matrix is singular.

    Any activations, feed-through and standardisation. Every acceptance is checked in fractions on the full
    matrix of size n + p; from 1e-9 above, nothing true may be refused.
    """
    rng = np.random.default_rng([12, seed])
    verdicts, cases = {True: 0, False: 0}, 0
    while cases < 50:
        tensors, blocks, lam = random_case(rng)
        units = str(rng.choice(["raw", "standardised"]))
        limits = [interval(b) for b in blocks]
        lower = np.repeat([low for low, _ in limits], [b["size"] for b in blocks])
        upper = np.repeat([high for _, high in limits], [b["size"] for b in blocks])
        try:
            tight = smallest_bound(tensors, lam, lower, upper, units == "raw")
        except AssertionError:
            continue  # with these slopes the network is not well posed: another one
        cases += 1
        offset = float(rng.choice([-1, 1])) * 10.0 ** -rng.uniform(6, 17)
        claim = lipschitz_claim(
            tight * (1 + offset), lam, [low for low, _ in limits], [high for _, high in limits], units
        )
        verdict = accepted(tmp_path, tensors, blocks, claim)
        verdicts[verdict] += 1
        if abs(offset) > 1e-9:
            assert verdict == (offset > 0)
    assert min(verdicts.values()) > 5


def test_slopes_bounded_from_below_prove_more(tmp_path: Path) -> None:
    """leaky relu with its own slopes [0.3, 1] beats [0, 1], and wider than true is allowed, narrower is not."""
    tensors, lam = lben(np.random.default_rng(13), 6, 5, 2, gamma=1.0)
    blocks = [block("leaky_relu", 6, negative_slope=0.3)]
    own = smallest_bound(tensors, lam, np.full(6, 0.3), np.ones(6)) * (1 + 1e-9)
    wide = smallest_bound(tensors, lam, np.zeros(6), np.ones(6)) * (1 + 1e-9)
    assert own < 0.999 * wide
    assert accepted(tmp_path, tensors, blocks, lipschitz_claim(own, lam, [0.3]))
    assert accepted(tmp_path, tensors, blocks, lipschitz_claim(wide, lam, [0.0]))
    assert not accepted(tmp_path, tensors, blocks, lipschitz_claim(own, lam, [0.0]))
    assert not accepted(tmp_path, tensors, blocks, lipschitz_claim(wide, lam, [0.31]))
    assert not accepted(tmp_path, tensors, blocks, lipschitz_claim(wide, lam, [0.3], [0.99]))
    assert not accepted(tmp_path, tensors, blocks, lipschitz_claim(wide, lam, [-0.1], [1.0]))
    assert not accepted(tmp_path, tensors, blocks, lipschitz_claim(wide, lam, [0.0], [1.1]))


def test_forms_without_neurons_and_with_many_inputs(tmp_path: Path) -> None:
    """y = D ξ + c has the slope of D; 1500 inputs pass through the sum over parts of the inputs."""
    rng = np.random.default_rng(14)
    D = rng.normal(size=(3, 1500))
    tensors = {"W": np.zeros((0, 0)), "U": np.zeros((0, 1500)), "b": np.zeros(0), "C": np.zeros((3, 0)), "D": D}
    form_tensors = {**tensors, "c": np.zeros(3)}
    norm = float(np.linalg.norm(D, 2))
    for offset, expected in ((1e-9, True), (-1e-9, False)):
        for blocks in ([], [block("relu", 0)]):
            form = form_bytes(form_tensors, blocks)
            claim = lipschitz_claim(norm * (1 + offset), np.zeros(0), [0.0] * len(blocks), [1.0] * len(blocks))
            assert verdict_on(tmp_path, certificate(form, claim), form).valid == expected
    tensors, lam = lben(rng, 4, 1500, 2, gamma=1.0, scale=0.02)
    tensors |= {"mean": np.zeros(1500), "std": rng.uniform(0.5, 2, 1500)}
    zeros, ones = np.zeros(4), np.ones(4)
    tight = smallest_bound(tensors, lam, zeros, ones, raw=True)
    for offset, expected in ((1e-9, True), (-1e-9, False)):
        form = form_bytes(tensors, [block("relu", 4)])
        claim = lipschitz_claim(tight * (1 + offset), lam, units="raw")
        assert verdict_on(tmp_path, certificate(form, claim), form).valid == expected


def sll_stack(rng: np.random.Generator, dyadic: bool) -> tuple[dict[str, Array], Array]:
    """Three layers x - 2 Wᵀ T⁻¹ σ(W x + b), 1-Lipschitz, as one form with D = I (mathematics 1.5, 4.2).

    With ``dyadic`` all numbers are small dyadic fractions and T are powers of two, so that the form is the
    stack exactly and its matrix exactly singular.
    """
    d, h, layers = 4, 5, 3
    n = h * layers
    W, U, C, T = np.zeros((n, n)), np.zeros((n, d)), np.zeros((d, n)), np.zeros(n)
    maps, outs = [], []
    for k in range(layers):
        A = rng.integers(-3, 4, (h, d)) / 4.0 if dyadic else rng.normal(size=(h, d))
        t = np.abs(A @ A.T).sum(axis=1) + (1e-3 if not dyadic else 2.0**-4)
        t = 2.0 ** np.ceil(np.log2(t)) if dyadic else t
        G = -2 * A.T / t
        rows = slice(k * h, (k + 1) * h)
        U[rows], C[:, rows], T[rows] = A, G, t
        for j, out in enumerate(outs):
            W[rows, j * h : (j + 1) * h] = A @ out
        maps.append(A)
        outs.append(G)
    tensors = {"W": W, "U": U, "b": rng.normal(size=n), "C": C, "c": np.zeros(d), "D": np.eye(d)}
    return tensors, 2 / T


@pytest.mark.parametrize("dyadic", [True, False])
def test_a_tight_stack_is_refused_at_its_bound_and_proved_just_above(dyadic: bool, tmp_path: Path) -> None:
    tensors, lam = sll_stack(np.random.default_rng(15), dyadic)
    blocks = [block("relu", len(lam))]
    assert not accepted(tmp_path, tensors, blocks, lipschitz_claim(1.0, lam))
    above = 1 + 1e-9
    assert accepted(tmp_path, tensors, blocks, lipschitz_claim(above, above * lam))
    if dyadic:  # exactly singular, not merely close: any larger bound, by fractions, makes it definite
        claim = lipschitz_claim(1.0, lam)
        zeros, ones = [0] * len(lam), [1] * len(lam)
        assert not positive_definite(lipschitz_matrix(tensors, zeros, ones, claim))
        M = np.array([[float(x) for x in row] for row in lipschitz_matrix(tensors, zeros, ones, claim)])
        assert np.linalg.eigvalsh(M).min() > -1e-12


def equilibrium(tensors: dict[str, Array], lam: Array, xi: Array) -> Array:
    """z = relu(W z + U ξ + b), columns of ξ being inputs, by small forward-backward steps (mathematics 1.7)."""
    W, bias = tensors["W"], tensors["U"] @ xi + tensors["b"][:, None]
    n = len(W)
    root = np.sqrt(lam)
    H = root[:, None] * (np.eye(n) - W) / root
    m, L = np.linalg.eigvalsh((H + H.T) / 2).min(), np.linalg.norm(H, 2)
    z = np.zeros_like(bias)
    for _ in range(4000):
        z = np.maximum(z - m / L**2 * (z - W @ z - bias), 0)
    assert np.abs(z - np.maximum(W @ z + bias, 0)).max() < 1e-9
    return z


def test_no_pair_of_inputs_beats_a_proved_bound(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    largest = 0.0
    for _ in range(10):
        tensors, lam = lben(rng, 5, 3, 2, gamma=1.0, epsilon=0.3)
        tight = smallest_bound(tensors, lam, np.zeros(5), np.ones(5)) * (1 + 1e-9)
        assert accepted(tmp_path, tensors, [block("relu", 5)], lipschitz_claim(tight, lam))
        x = rng.normal(0, 2, (3, 400))
        step = rng.normal(0, 1, (3, 400)) * 10.0 ** rng.uniform(-3, 0, 400)
        change = tensors["C"] @ (equilibrium(tensors, lam, x + step) - equilibrium(tensors, lam, x))
        slopes = np.linalg.norm(change, axis=0) / np.linalg.norm(step, axis=0)
        assert slopes.max() <= tight * (1 + 1e-5)
        largest = max(largest, float(slopes.max() / tight))
    assert largest > 0.5  # the search is not idle


def test_each_claim_is_proved_and_the_first_failure_is_named(tmp_path: Path) -> None:
    tensors, lam = lben(np.random.default_rng(17), 4, 3, 2, gamma=1.0)
    form = form_bytes(tensors, [block("relu", 4)])
    good, bad = lipschitz_claim(1.0, lam), lipschitz_claim(0.01, lam)
    assert [c.bound for c in verdict_on(tmp_path, certificate(form, good, good), form).claims] == [1.0, 1.0]
    verdict = verdict_on(tmp_path, certificate(form, good, bad), form)
    assert not verdict.valid
    assert verdict.reason.startswith("claim 2: ")


def test_an_ill_posed_network_is_refused_at_any_bound(tmp_path: Path) -> None:
    """z = relu(2 z + x) has two equilibria for x < 0 and none for x > 0."""
    tensors = {"W": np.array([[2.0]]), "U": np.ones((1, 1)), "b": np.zeros(1), "C": np.ones((1, 1)), "c": np.zeros(1)}
    for bound in (1.0, 1e6, 1e100):
        for multiplier in (1e-6, 1.0, 1e6):
            assert not accepted(tmp_path, tensors, [block("relu", 1)], lipschitz_claim(bound, np.array([multiplier])))


def test_multipliers_must_be_positive_even_where_the_matrix_is_definite(tmp_path: Path) -> None:
    """z = leaky_relu(4/3 z + x) has several equilibria, yet with a negative multiplier its matrix is definite."""
    one = np.ones((1, 1))
    tensors = {"W": one * 4 / 3, "U": one / 8, "b": np.zeros(1), "C": one / 8, "c": np.zeros(1)}
    claim = lipschitz_claim(10.0, np.array([-1.0]), [0.5])
    assert positive_definite(lipschitz_matrix(tensors, [0.5], [1.0], claim))
    assert not accepted(tmp_path, tensors, [block("leaky_relu", 1, negative_slope=0.5)], claim)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_stands_in_for_inverse_squares_is_never_below(dtype: type) -> None:
    rng = np.random.default_rng(18)
    for std in [*rng.uniform(1e-3, 1e3, 50), 0.25, 3.0, 1e-8]:
        one = np.ones((1, 1), dtype)
        form = Form(one[:0, :0], one[:0], one[:, :0], one, np.array([std], dtype), ())
        above = gram_above(form.U, form.D, form.std, Budget())
        ratio = Fraction(int(above.integers[0, 0])) * Fraction(2) ** above.exponent * Fraction(float(form.std[0])) ** 2
        assert 1 <= ratio < 1 + Fraction(1, 2**60)
        assert ratio == 1 or std != 0.25
        assert gram_above(form.U, form.D, None, Budget()).integers.tolist() == [[1]]
