"""The smallest ℓ∞ Lipschitz bound of a form that can be proved: |y(x) - y(x')|∞ <= bound |x - x'|∞ (linf.md 2, 3).

Two proofs compete for every output. The comparison matrix bounds every neuron by itself: w >= (I - uM)⁻¹ u|U|s gives
|dy| <= |C| w + |D| s. The trace programme weighs a whole quadratic form, which sees signs, and is by far the tighter
one for networks that were not trained against boxes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np

from equilip.certify import phase_one, trace
from equilip.certify.bounds import Slopes, per_unit, slopes_of, uniform_std
from equilip.certify.rigour import Prover
from equilip.certify.scale import Metric
from equilip.certify.system import HasForm, Head, System, array, as_form, from_form
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form
from equilip.operators import Contraction
from equilip.rounding import Array, up, upper_sum
from equilip.solve.comparison import Comparison

#: Up to this many neurons and inputs together the trace programme is solved unless asked otherwise. Beyond, ten exact
#: quadratic forms are also more than the stand-alone checker does.
TRACE_SIZE = 1500
#: A bound below this is that of outputs that nothing moves; a certificate still needs a positive number.
NOTHING = 1e-25
#: Factors by which the weights of a row may be raised until its proof goes through.
_INFLATIONS = (1.0 + 2.0**-20, 1.0 + 2.0**-14, 1.0 + 2.0**-10)


@dataclass(frozen=True, eq=False)
class Row:
    """|dy_i|² <= Σ weights_j² dxi_j² for one output: multipliers (n,), one per neuron, weights (p,); all positive."""

    multipliers: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class LinfProof:
    """What proves |dy|∞ <= ``value`` for |dxi_j| <= s_j, where s is 1, or 1 / std for raw inputs.

    comparison: w (n,) with w - u M w >= u |U| s, which bounds |dz|; one number for each channel of a convolutional
        network; None where the comparison matrix proves nothing.
    rows: for each output its quadratic form, or None where ``comparison`` proves it.
    """

    value: float
    comparison: Array | None
    rows: tuple[Row | None, ...]


@dataclass(frozen=True, eq=False)
class LinfBound:
    """A proved bound: |y(x) - y(x')|∞ <= ``value`` |xi - xi'|∞ and <= ``value_raw`` |x - x'|∞ for all x, x'.

    As :class:`equilip.certify.Bound`, in the norm of the largest entry. ``proof`` and ``proof_raw`` are what a
    certificate holds. by_comparison and by_trace: the bounds that each of the two methods proves by itself, for
    standardised inputs, infinite where it proves nothing; ``value`` takes the better one for every output.
    ``converged``: whether the trace programme was solved for every output that decides the bound.
    """

    value: float
    value_raw: float
    proof: LinfProof
    proof_raw: LinfProof
    by_comparison: float
    by_trace: float
    slopes: tuple[Slopes, ...]
    converged: bool
    seconds: float
    form_sha256: str
    norm: str = "linf"
    units: str = "standardised"

    @property
    def method(self) -> str:
        """Which proof was taken: "comparison", "trace", or "both", some outputs by each."""
        traced = sum(row is not None for row in self.proof.rows)
        return "comparison" if not traced else "trace" if traced == len(self.proof.rows) else "both"

    def save(self, path: str | PathLike[str], *, form_file: str = "form.safetensors") -> None:
        """Write the certificate that ``equilip verify`` checks; ``form_file`` is the form's name beside it."""
        from equilip.certify.certificate import write

        write(self, path, form_file=form_file)


def lipschitz_linf(model: Form | HasForm, *, method: str = "auto", seconds: float = 60.0) -> LinfBound:
    """The smallest ℓ∞ Lipschitz bound of ``model`` that can be proved, for standardised and for raw inputs.

    ``method``: "trace" solves a semidefinite programme for every output that decides the bound; "scale" takes weights
    and multipliers from formulas; "comparison" uses the comparison matrix alone; "auto" takes trace for small networks,
    and for large ones comparison, or scale where that proves nothing. The comparison matrix is used in each.
    ``seconds`` is a budget for the search of "trace"; the others search nothing. Convolutional contracting networks are
    bounded by the comparison matrix of their channels, whatever the method.

    Raises IllPosedError where neither proof applies, ProofError where rounding stands in the way of both.
    """
    if method not in ("auto", "trace", "scale", "comparison"):
        raise InputError(f"method {method!r} is unknown; choose auto, trace, scale or comparison")
    form = as_form(model)
    if isinstance(form.W, Contraction):
        from equilip.certify.channels import by_channels

        return by_channels(form)
    start = time.monotonic()
    if method == "auto":
        small = form.hidden_size + form.in_size <= TRACE_SIZE
        method = "trace" if small else "scale" if Comparison.of(form) is None else "comparison"
    rows = RowSearch.of(form, raw=False, method=method)
    proof = rows.least(start + seconds)
    std = uniform_std(form)
    if std is not None:
        raw = replace(
            proof,
            value=per_unit(proof.value, std),
            comparison=None if proof.comparison is None else _comparison(form, half_widths(form, raw=True)),
        )
    else:
        raw = RowSearch.of(form, raw=True, method=method).least(max(start, time.monotonic()) + seconds)
    return LinfBound(
        value=proof.value,
        value_raw=raw.value,
        proof=proof,
        proof_raw=raw,
        by_comparison=float(rows.compared.max(initial=0.0)),
        by_trace=float(rows.traced.max(initial=0.0)),
        slopes=slopes_of(form),
        converged=rows.converged,
        seconds=time.monotonic() - start,
        form_sha256=form.sha256,
    )


def half_widths(form: Form, *, raw: bool) -> Array:
    """s (p,): how far ξ_j moves where the input moves by 1; 1 / std, rounded up, for raw inputs."""
    if not raw or form.standardisation is None:
        return np.ones(form.in_size)
    return np.nextafter(1.0 / array(form.standardisation.std), np.inf)


def _comparison(form: Form, s: Array) -> Array | None:
    """w (n,) with w - u M w >= u |U| s, proved; None where there is none."""
    comparison = Comparison.of(form)
    if comparison is None:
        return None
    pushed = np.nextafter(upper_sum(np.nextafter(np.abs(array(form.U)) * s, np.inf), axis=1) * comparison.slope, np.inf)
    w = comparison.bound(pushed[None])[0]
    # Neurons that no input reaches may move a little too, so that the inequalities are strict for them; how little is
    # measured by those that move least, in the units of the weight.
    moved = w[w > 0] / comparison.weight[w > 0]
    w = w + 2.0**-50 * float(moved.min(initial=1.0)) * comparison.weight
    # A little more, so that the checker's inequalities hold with its own, exact, right-hand side.
    w = w * (1.0 + 2.0**-40)
    return w if bool(np.isfinite(w).all()) else None


class RowSearch:
    """Bounds of single rows read from a network: the outputs, or differences of two outputs."""

    def __init__(
        self, form: Form, system: System, head: Head, reads: tuple[Array, Array], s: Array, method: str
    ) -> None:
        """``head``: the rows as the system sees them; ``reads``: |C| (k, n) and |D| (k, p) of the form, rounded up."""
        self.system, self.head, self.s, self.method = system, head, s, method
        self.weight = _comparison(form, s)
        count = head.C.shape[0]
        self.compared = np.full(count, np.inf)
        if self.weight is not None:
            sizes = np.hstack([reads[0] * self.weight, reads[1] * s])
            self.compared = upper_sum(np.nextafter(sizes, np.inf), axis=1)
        self.traced = np.full(count, np.inf)
        self.rows: list[Row | None] = [None] * count
        self.done: set[int] = set()
        self.unfinished = False
        self.lam: Array | None = None
        if method != "comparison" and system.size:
            self._scale(None if form.lam is None else system.adopt(array(form.lam)))

    @classmethod
    def of(cls, form: Form, *, raw: bool, method: str, combination: Array | None = None) -> RowSearch:
        """The rows of ``combination`` (k, q) times the outputs; the outputs themselves by default."""
        system = from_form(form, raw=False)
        C, D = array(form.C), array(form.D)
        if combination is None:
            return cls(form, system, system.head, (np.abs(C), np.abs(D)), half_widths(form, raw=raw), method)
        reads = (np.nextafter(np.abs(combination @ C), np.inf), np.nextafter(np.abs(combination @ D), np.inf))
        return cls(form, system, system.head.rows(combination), reads, half_widths(form, raw=raw), method)

    @property
    def bounds(self) -> Array:
        """The best proved bound of every row, (k,)."""
        return np.minimum(self.compared, self.traced)

    @property
    def converged(self) -> bool:
        """Whether the rows that are largest were searched to the end."""
        bounds = self.bounds
        return not self.unfinished and (not bounds.size or int(np.argmax(bounds)) in self.done)

    def least(self, deadline: float) -> LinfProof:
        """The smallest bound on all rows that is proved by the deadline; errors as in :func:`lipschitz_linf`."""
        if not np.isfinite(self.bounds).all():
            if self.weight is None and self.lam is None and self.method != "comparison":
                raise IllPosedError(
                    "neither multipliers nor the comparison matrix prove a unique equilibrium for every input, so no "
                    "bound can be proved; networks of equilip.nn come with such multipliers"
                )
            if self.method == "comparison":
                raise IllPosedError(
                    "the comparison matrix proves nothing about this network: use method='trace', or a network that "
                    "contracts in a weighted maximum norm (nn.NEMON)"
                )
            raise ProofError("no l-infinity bound could be proved for the stored numbers: the network is too close to "
                             "losing its unique equilibrium for float64 proofs")  # fmt: skip
        while self.method == "trace" and self.lam is not None and time.monotonic() < deadline:
            worst = int(np.argmax(self.bounds))
            if worst in self.done:
                break
            self.improve(worst, deadline)
        better = self.traced < self.compared
        rows = tuple(row if use else None for row, use in zip(self.rows, better, strict=True))
        return LinfProof(float(self.bounds.max(initial=NOTHING)), None if better.all() and rows else self.weight, rows)

    def improve(self, index: int, deadline: float) -> None:
        """Solve the trace programme of one row, and keep what it proves where that is better."""
        known = self.rows[index]
        self.done.add(index)
        if known is None or self.traced[index] < NOTHING:
            return
        feed = self.head.D
        found = trace.minimise(
            self.system.W.mid,
            self.system.U.mid,
            self.head.C.mid[index],
            np.zeros(self.s.size) if feed is None else feed.mid[index],
            self.s,
            self.system.adopt(known.multipliers) * 1.001,
            known.weights**2 * 1.01,
            seconds=deadline - time.monotonic(),
        )
        if found is None:
            return
        self.unfinished |= not found.converged
        # The optimum lies on the edge of what can be proved; a little of the point it was sought from leads inside.
        inside = 0.999 * found.lam + 0.001 * self.system.adopt(known.multipliers)
        self._prove(index, inside, np.sqrt(0.999 * found.g + 0.001 * known.weights**2))

    def _scale(self, known: Array | None) -> None:
        """Weights by the rule g_j ~ sqrt(K_jj) for the matrix K that G has to exceed, and the best multiples of Λ."""
        best: tuple[float, Array] | None = None
        for lam in phase_one.candidates(self.system, known):
            metric = Metric.of(replace(self.system, unit=None), lam)
            if metric is None:
                continue
            size = float(np.max(metric.rows(self.head).rho, initial=0.0))
            if best is None or size < best[0]:
                best = size, lam
        if best is None:
            return
        lam = self.lam = best[1]
        unit = self._unit(lam)
        scaled = Metric(replace(self.system, unit=unit), lam).rows(self.head)
        for index in range(self.head.C.shape[0]):
            gamma = float(np.sqrt(scaled.rho[index]))
            if np.isfinite(gamma) and gamma > 0.0:
                self._prove(index, lam * scaled.factor[index], unit * gamma)

    def _unit(self, lam: Array) -> Array:
        weighted = lam[:, None] * self.system.W.mid
        P = np.diag(2.0 * lam) - weighted - weighted.T
        factor = np.linalg.cholesky(P)
        X = np.linalg.solve(factor, lam[:, None] * self.system.U.mid)
        size = np.sum(X**2, axis=0)
        if self.head.D is not None:
            size = size + np.sum(self.head.D.mid**2, axis=0)
        # An input that nothing reads gets a weight that is small and still a weight.
        quarter = np.maximum(size, 1e-14 * max(float(size.max(initial=0.0)), 1e-290)) ** 0.25
        return np.asarray(quarter / np.sqrt(self.s), dtype=np.float64)

    def _prove(self, index: int, lam: Array, weights: Array) -> None:
        head = Head(self.head.C[index : index + 1], None if self.head.D is None else self.head.D[index : index + 1])
        for inflation in _INFLATIONS:
            own = weights * inflation
            if Prover(replace(self.system, head=head, unit=own)).proves(lam, 1.0):
                bound = up(np.sqrt(upper_sum(np.nextafter(np.nextafter(own * self.s, np.inf) ** 2, np.inf))))
                if bound < self.traced[index]:
                    self.traced[index] = bound
                    self.rows[index] = Row(self.system.restore(lam), own)
                return
