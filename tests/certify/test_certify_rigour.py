"""The proof in floating point against exact rationals, where the two are hardest to tell apart."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from certify_networks import KINDS, numbers, random_form, tensor

from equilip.certify import phase_one
from equilip.certify.rigour import Prover
from equilip.certify.scale import Metric
from equilip.certify.system import from_form
from equilip.form import Form, Standardisation


def exact_lmi(form: Form, lam: np.ndarray, gamma: float, *, raw: bool) -> list[list[Fraction]]:
    """The matrix of mathematics 9.3 for slopes in [0, 1], its input block gamma² diag(std²), without any rounding."""
    W, U, C, D, _, _ = numbers(form)
    n, p = U.shape
    std = form.standardisation.std.numpy() if raw and form.standardisation is not None else np.ones(p)
    exact = np.vectorize(Fraction, otypes=[object])
    W, U, C, D, own, unit = (exact(np.asarray(a, dtype=np.float64)) for a in (W, U, C, D, lam, std))
    weighted, Y = own[:, None] * np.hstack([W, U]), np.hstack([C, D])
    matrix = -(Y.T @ Y)
    matrix[:n] -= weighted
    matrix[:, :n] -= weighted.T
    matrix[np.arange(n), np.arange(n)] += 2 * own
    matrix[np.arange(n, n + p), np.arange(n, n + p)] += Fraction(gamma) ** 2 * unit * unit
    return [list(row) for row in matrix]


def positive_definite(rows: list[list[Fraction]]) -> bool:
    for k in range(len(rows)):
        if rows[k][k] <= 0:
            return False
        for i in range(k + 1, len(rows)):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [x - factor * y for x, y in zip(rows[i], rows[k], strict=True)]
    return True


def test_near_the_least_bound_no_proof_is_unsound() -> None:
    accepted = refused = wrongly_refused = 0
    for trial in range(300):
        rng = np.random.default_rng(trial)
        n, p, q = (int(k) for k in rng.integers(1, 5, 3))
        form = random_form(rng, KINDS[trial % len(KINDS)], n, p, q, float(10 ** rng.uniform(-4, 4)))
        raw = bool(trial % 2)
        std = tensor(np.exp(2 * rng.standard_normal(p)))
        form = replace(form, standardisation=Standardisation(tensor(np.zeros(p)), std))
        system = from_form(form, raw=raw)
        lam = phase_one.candidates(system, None)[0]
        scaled = Metric(system, lam).joint(system.head)
        lam = lam * float(scaled.factor)
        distance = float(rng.choice([-1, 1])) * 10 ** rng.uniform(-16, -8)
        gamma = float(np.sqrt(scaled.rho)) * (1 + distance)
        truth = positive_definite(exact_lmi(form, lam, gamma, raw=raw))
        claimed = Prover(system).proves(lam, gamma)
        assert truth or not claimed, f"unsound acceptance in trial {trial}"
        accepted += claimed
        refused += not truth
        wrongly_refused += truth and not claimed and distance > 1e-9
    assert accepted > 60
    assert refused > 60
    assert wrongly_refused <= 2


def test_the_least_bound_is_raised_by_no_more_than_needed() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        system = from_form(random_form(rng, KINDS[seed % len(KINDS)], 6, 4, 3), raw=False)
        lam = phase_one.candidates(system, None)[0]
        scaled = Metric(system, lam).joint(system.head)
        lam, estimate = lam * float(scaled.factor), float(np.sqrt(scaled.rho))
        prover = Prover(system)
        least = prover.least(lam, estimate)
        assert least is not None
        gamma, inflation = least
        assert prover.proves(lam, gamma)
        assert inflation == gamma / estimate
        assert inflation < 1 + 2.0**-49 or not prover.proves(lam, estimate * (1 + (inflation - 1) / 4))


def test_useless_multipliers_prove_nothing() -> None:
    system = from_form(random_form(np.random.default_rng(0), "monotone", 4, 3, 2), raw=False)
    prover = Prover(system)
    for lam in (np.zeros(4), -np.ones(4), np.full(4, np.nan), np.full(4, np.inf), np.full(4, 1e-300)):
        assert not prover.proves(lam, 1.0)
        assert prover.least(lam, 1.0) is None
    for gamma in (0.0, -1.0, np.nan, np.inf):
        assert not prover.proves(np.ones(4), gamma)
