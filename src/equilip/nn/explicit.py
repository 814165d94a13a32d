"""A form as a module: matrices that are themselves the parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip import form as forms
from equilip.form import Form
from equilip.nn.guarantee import Guarantee
from equilip.nn.module import EquilibriumModule
from equilip.operators import Zero
from equilip.solve import Settings


class Explicit(EquilibriumModule):
    """Holds W (n, n), U, b, C, c, where there is one D, as parameters, and the form's multipliers as a buffer.

    It promises nothing: whether there is an equilibrium is found out when it is solved, and what bound holds
    is for ``equilip.certify`` to prove. ``freeze()`` of every module makes one.
    """

    lam: Tensor | None
    D: torch.nn.Parameter | None

    def __init__(self, form: Form, *, settings: Settings | None = None) -> None:
        super().__init__(form.standardisation, settings)
        self.in_features, self.hidden_features, self.out_features = form.in_size, form.hidden_size, form.out_size
        self.activation = form.activation

        def own(tensor: Tensor) -> torch.nn.Parameter:
            return torch.nn.Parameter(tensor.detach().clone())

        self.W, self.U, self.b = own(form.W.dense()), own(form.U.dense()), own(form.b)
        self.C, self.c = own(form.C.dense()), own(form.c)
        self.register_parameter("D", None if isinstance(form.D, Zero) else own(form.D.dense()))
        self.register_buffer("lam", None if form.lam is None else form.lam.detach().clone())
        self.to(device=form.device, dtype=form.dtype)

    def form(self) -> Form:
        return forms.dense(
            self.W, self.U, self.b, self.C, self.c,
            D=self.D, activation=self.activation, lam=self.lam, standardisation=self._standardisation(),
        )  # fmt: skip

    def guarantee(self) -> Guarantee | None:
        return None

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.hidden_features}, {self.out_features}, activation={self.activation.kind}"
