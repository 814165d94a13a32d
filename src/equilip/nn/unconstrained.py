"""An equilibrium network with a free W, as the others are compared with: nothing says that it has an equilibrium.

It is trained like the others, and solved with the same splitting. That may fail, for some inputs, at any time in
training and after it: what counts are the samples for which it did not, and how many those were has to be reported.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation, ReLU
from equilip.form import Form, Standardisation
from equilip.nn.module import EquilibriumModule, check_sizes, uniform
from equilip.solve import Metric, Settings, Solution, equilibrium

#: Steps after which a solve is given up in training, where every batch may hold samples without equilibrium.
PATIENCE = 300


class Unconstrained(EquilibriumModule):
    """z = σ(W z + U ξ + b), y = C z + c with free W: for some inputs there may be no equilibrium, or several.

    By default solves neither ask for a proof that there is one equilibrium, nor raise where none is found: look at
    ``Solution.converged`` (``solve``); ``forward`` alone does not tell. Parameters: W (n, n), U (n, p), b (n,),
    C (q, n), c (q,). Raises InputError for sizes that are not positive.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        activation: Activation | None = None,
        standardisation: Standardisation | None = None,
        settings: Settings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        settings = Settings(raise_on_failure=False, require_well_posed=False) if settings is None else settings
        super().__init__(standardisation, settings)
        n, p, q = hidden_features, in_features, out_features
        self.in_features, self.hidden_features, self.out_features = p, n, q
        self.activation = ReLU() if activation is None else activation

        def draw(*shape: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*shape, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        self.U = draw(n, p, fan_in=p)
        self.b = draw(n, fan_in=p)
        self.W = draw(n, n, fan_in=n)
        self.C = draw(q, n, fan_in=n)
        self.c = draw(q, fan_in=n)
        self.to(device=device, dtype=dtype)

    def form(self) -> Form:
        return forms.dense(
            self.W, self.U, self.b, self.C, self.c,
            activation=self.activation, standardisation=self._standardisation(),
        )  # fmt: skip

    def solve(self, x: Tensor, settings: Settings | None = None, *, start: Tensor | None = None) -> Solution:
        settings = self.settings if settings is None else settings
        transformed = torch._C._are_functorch_transforms_active()
        if not self.training or transformed or settings.require_well_posed:
            return super().solve(x, settings, start=start)
        # In training no multipliers are searched for a W that changes with every step: a metric that claims nothing
        # stands in, with which the splitting takes its plain step.
        form = self.form()
        scale = form.W.norm_bound()
        self._pace.metric, self._pace.age = Metric(torch.ones_like(self.b.detach()), -torch.inf, scale, scale), 1
        settings = replace(settings, max_iterations=min(settings.max_iterations, PATIENCE))
        return equilibrium(form, x, settings, start=start, pace=self._pace)

    def guarantee(self) -> None:
        """Nothing is promised."""
        return

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.hidden_features}, {self.out_features}, activation={self.activation.kind}"
