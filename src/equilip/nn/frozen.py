"""A form of any operators as a module that is not trained any more."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.form import Form
from equilip.nn.guarantee import Guarantee
from equilip.nn.module import EquilibriumModule
from equilip.solve import Settings


class Frozen(EquilibriumModule):
    """Serves a form whose maps are not matrices. Its tensors are buffers; it promises nothing and learns nothing."""

    def __init__(self, form: Form, *, settings: Settings | None = None) -> None:
        super().__init__(form.standardisation, settings)
        self.in_features, self.hidden_features, self.out_features = form.in_size, form.hidden_size, form.out_size
        self.activation = form.activation
        self._form = form.detach()
        for name, tensor in self._named().items():
            self.register_buffer(name, tensor.clone())

    def _named(self) -> dict[str, Tensor]:
        form = self._form
        found = {"b_": form.b, "c_": form.c}
        for name in ("W", "U", "C", "D"):
            found |= {f"{name}{i}": tensor for i, tensor in enumerate(getattr(form, name).tensors)}
        return found

    def form(self) -> Form:
        own, kept = dict(self.named_buffers(recurse=False)), self._form.to(self.b_.dtype, self.b_.device)
        maps = {
            name: (op := getattr(kept, name)).rebuild(tuple(own[f"{name}{i}"] for i in range(len(op.tensors))))
            for name in ("W", "U", "C", "D")
        }
        return Form(
            **maps,
            b=own["b_"],
            c=own["c_"],
            activation=self.activation,
            lam=kept.lam,
            standardisation=self._standardisation(),
        )

    def guarantee(self) -> Guarantee | None:
        return None

    b_: torch.Tensor

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.hidden_features}, {self.out_features}, activation={self.activation.kind}"
