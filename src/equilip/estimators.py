"""scikit-learn estimators: a Lipschitz-bounded equilibrium network behind fit and predict.

Every distance, bound and radius is in the units of the X handed to ``fit`` and ``predict``, whatever happens inside.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from equilip import activations, certify, nn
from equilip import form as forms
from equilip.certify import Bound, RowBounds
from equilip.errors import ConfigError, ConvergenceError, InputError
from equilip.form import Form, Standardisation
from equilip.nn import Guarantee
from equilip.operators import Dense
from equilip.solve import equilibrium
from equilip.train.batches import generator, order
from equilip.train.config import TrainConfig
from equilip.train.descent import descend, explained
from equilip.train.evaluation import rows_at_a_time
from equilip.train.losses import CrossEntropy, LipschitzMargin, Loss, SquaredError
from equilip.train.schedules import OneCycle
from equilip.train.slopes import slopes

Array = NDArray[np.float64]

#: The slack of the construction, as in the recipes; it costs little of the bound and keeps solves short.
EPSILON = 0.1


class _Lipschitz(BaseEstimator):
    """What both estimators share: the training of an LBEN, the form that it leaves, and the proofs about it."""

    gamma: float
    width: int
    activation: str
    standardise: bool
    epochs: int
    batch: int
    lr: float
    random_state: Any
    form_: Form
    loss_curve_: list[float]

    def _train(
        self, X: Array, target: Tensor, weight: Array, scale: float, loss: Callable[[float], Loss], q: int
    ) -> Form:
        """Train on X (N, p) with positive ``weight`` (N,) and return the form, in float64.

        Its outputs (N, q) are ``scale`` times what is compared with ``target``, and the slope of the form is at most
        gamma per unit of X. ``loss(factor)`` is the loss for a network whose outputs were multiplied by ``factor``.
        """
        config = self._config()
        standardisation = _standardisation(X, weight) if self.standardise else None
        unit = 1.0 if standardisation is None else float(standardisation.std[0])
        bound = config.gamma * unit / scale  # type: ignore[operator]
        if not (math.isfinite(bound) and bound > 0.0):
            raise InputError(f"gamma = {self.gamma} is too large or too small for the scale of this X and y")
        # A network with a small bound is one with the bound 1 whose outputs are multiplied: its solves stay short.
        factor = min(1.0, bound)
        network = nn.LBEN(
            X.shape[1], config.width, q, bound / factor,
            epsilon=EPSILON, activation=activations.activation(config.activation), standardisation=standardisation,
            dtype=torch.float64, generator=generator(config.seed),
        )  # fmt: skip
        self.loss_curve_ = _descend(network, factor, torch.from_numpy(X), target, weight, loss(factor), config)
        with torch.no_grad():
            form = network.form().detach()
        factor *= scale
        return replace(form, C=Dense(form.C.dense() * factor), c=form.c * factor)

    def _keep(self, form: Form) -> None:
        """Keep the form if its stored numbers keep the promise of gamma; ProofError if not."""
        unit = 1.0 if form.standardisation is None else float(form.standardisation.std[0])
        assert form.lam is not None
        certify.check_guarantee(form, Guarantee(float(self.gamma) * unit, form.lam))
        self.form_ = form
        self._proved: tuple[Bound, RowBounds] | None = None

    def _config(self) -> TrainConfig:
        """The parameters, checked; ConfigError names one that cannot work."""
        if self.gamma is None:
            raise ConfigError("gamma, the bound, must be a positive number, got None")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return TrainConfig(
            gamma=self.gamma, width=self.width, activation=self.activation, epochs=self.epochs, batch=self.batch,
            lr=self.lr, schedule="one-cycle", seed=seed, dtype="float64",
        )  # fmt: skip

    def _outputs(self, X: ArrayLike) -> Array:
        """The network's outputs (N, q), each solved in float64."""
        x, form = self._inputs(X), self.form_
        with torch.no_grad():
            parts = [equilibrium(form, part).y for part in x.split(rows_at_a_time(form.hidden_size))]
            y: Array = torch.cat(parts).numpy()
        return y

    def _inputs(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        return torch.from_numpy(np.array(validate_data(self, X, dtype=np.float64, reset=False), order="C"))

    def _proofs(self) -> tuple[Bound, RowBounds]:
        """The proved bounds on the network and on its outputs and their pairs; found when first asked for."""
        check_is_fitted(self)
        if self._proved is None:
            bound = certify.lipschitz(self.form_)
            self._proved = bound, certify.rows(self.form_, bound)
        return self._proved

    @property
    def lipschitz_bound_(self) -> float:
        """The proved bound: ‖f(x) - f(x')‖₂ <= it · ‖x - x'‖₂ for all x, x' in the units of X; never above gamma by
        more than a millionth. Proved when first asked for."""
        return self._proofs()[0].value_raw

    def __getstate__(self) -> dict[str, Any]:
        """Parameters and plain values; the network as the bytes of a safetensors file. Proofs are made anew."""
        state = dict(super().__getstate__())
        state.pop("_proved", None)
        if "form_" in state:
            state["form_"] = state["form_"].to_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "form_" in state:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "form.safetensors"
                file.write_bytes(state["form_"])
                state["form_"] = forms.load(file)
            state["_proved"] = None
        super().__setstate__(state)


class LipschitzClassifier(ClassifierMixin, _Lipschitz):
    """A classifier whose outputs have slope at most gamma, so that every prediction comes with a certified radius.

    gamma: the bound, in units of the outputs (logits) per unit of X: ‖f(x) - f(x')‖₂ <= gamma ‖x - x'‖₂. Smaller is
        more robust and less accurate; what matters is gamma times the distances between the samples.
    width: number of neurons. activation: any name that ``equilip train`` knows.
    loss_eps: a distance in the units of X; training asks for predictions that hold within it. 0: plain cross-entropy.
    standardise: centre every column of X and divide all by one number, inside the network. All units stay those of X.
    epochs, batch, lr: how long, in what portions and how fast to train (Adam, one cycle).
    random_state: seed of the weights and of the order of the samples.

    After ``fit``: ``classes_``, ``form_`` (the network, for :mod:`equilip.certify` and :mod:`equilip.attack`),
    ``lipschitz_bound_``, ``loss_curve_`` (mean loss of every epoch), ``n_features_in_``.
    """

    def __init__(
        self,
        gamma: float = 1.0,
        *,
        width: int = 64,
        activation: str = "relu",
        loss_eps: float = 0.0,
        standardise: bool = True,
        epochs: int = 100,
        batch: int = 128,
        lr: float = 1e-2,
        random_state: Any = None,
    ) -> None:
        self.gamma = gamma
        self.width = width
        self.activation = activation
        self.loss_eps = loss_eps
        self.standardise = standardise
        self.epochs = epochs
        self.batch = batch
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X (N, p) and labels y (N,) of any kind; a weight of k counts as k samples, one of 0 as none.

        Raises ValueError (InputError, ConfigError) for data and parameters that cannot be used, and ProofError where
        the trained numbers do not keep the bound.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        rows, labels, weight = _weighted(rows, labels, sample_weight)
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y holds the one class {classes[0]!r}; a classifier needs two classes at least")
        if not (math.isfinite(self.loss_eps) and self.loss_eps >= 0.0):
            raise ConfigError(f"loss_eps is a distance in the units of X, at least 0, got {self.loss_eps}")

        def loss(factor: float) -> Loss:
            # The loss asks the network for its slope, and that is the one before the outputs were multiplied.
            return LipschitzMargin(self.loss_eps * factor) if self.loss_eps else CrossEntropy()

        self._keep(self._train(rows, torch.from_numpy(codes.astype(np.int64)), weight, 1.0, loss, len(classes)))
        self.classes_ = classes
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class of each row of X, (N,)."""
        outputs = self._outputs(X)
        predicted: NDArray[Any] = self.classes_[outputs.argmax(1)]
        return predicted

    def predict_proba(self, X: ArrayLike) -> Array:
        """The softmax of the outputs, (N, classes), in the order of ``classes_``. It is no proved probability."""
        outputs = self._outputs(X)
        odds = np.exp(outputs - outputs.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def certified_radius(self, X: ArrayLike, y: ArrayLike | None = None) -> Array:
        """For each row of X a proved l2 distance, in the units of X, within which its class cannot change, (N,).

        It is about the class predicted, or about the true class ``y`` (N,) where it is given: then 0 for what is
        classified otherwise, so that the mean of ``certified_radius(X, y) > eps`` is the certified accuracy. The
        solver's error and all rounding are subtracted (:func:`equilip.certify.radius`).
        """
        x = self._inputs(X)
        if y is None:
            codes = self._outputs(X).argmax(1)
        else:
            y = np.asarray(y)
            codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
            unknown = self.classes_[codes] != y
            if y.shape != (len(x),) or np.any(unknown):
                what = f"the class {y[unknown][0]!r}" if y.shape == (len(x),) else f"labels of shape {y.shape}"
                raise InputError(f"{what} cannot be certified: expected one of {list(self.classes_)} for each row of X")
        bound, pairs = self._proofs()
        radius: Array = certify.radius(self.form_, x, torch.from_numpy(codes), bound=bound, pairs=pairs).numpy()
        return radius


class LipschitzRegressor(RegressorMixin, _Lipschitz):
    """A regressor with ‖f(x) - f(x')‖₂ <= gamma ‖x - x'‖₂ for all x and x'.

    gamma: the bound, in units of y per unit of X. For several targets it bounds the l2 norm of all of them together.
    standardise: centre every column of X and divide all by one number, inside the network; gamma keeps its units.
    The other parameters are those of :class:`LipschitzClassifier`. The scale of y is always taken care of inside.

    After ``fit``: ``form_``, ``lipschitz_bound_``, ``loss_curve_`` (squared error in units of the variance of y),
    ``n_features_in_``.
    """

    def __init__(
        self,
        gamma: float = 1.0,
        *,
        width: int = 64,
        activation: str = "relu",
        standardise: bool = True,
        epochs: int = 100,
        batch: int = 128,
        lr: float = 1e-2,
        random_state: Any = None,
    ) -> None:
        self.gamma = gamma
        self.width = width
        self.activation = activation
        self.standardise = standardise
        self.epochs = epochs
        self.batch = batch
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X (N, p) and targets y (N,) or (N, q); weights and errors are those of the classifier."""
        rows, values = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        rows, values, weight = _weighted(rows, np.asarray(values, dtype=np.float64), sample_weight)
        target = values.reshape(len(values), -1)
        mean, scale = _centre(target, weight)

        def loss(factor: float) -> Loss:
            return SquaredError()

        form = self._train(rows, torch.from_numpy((target - mean) / scale), weight, scale, loss, target.shape[1])
        self._keep(replace(form, c=form.c + torch.from_numpy(mean)))
        self.n_outputs_ = target.shape[1]
        self._flat = values.ndim == 1
        return self

    def predict(self, X: ArrayLike) -> Array:
        """f at each row of X: (N,), or (N, q) where y was such."""
        return self._shaped(self._outputs(X))

    def certified_interval(self, X: ArrayLike, eps: float) -> tuple[Array, Array]:
        """Proved limits, lower and upper, of f within the l2 distance ``eps`` of each row of X, in the units of X.

        Each has the shape of ``predict(X)``. The solver's error and all rounding are included: the interval with
        ``eps`` 0 says how far the prediction itself can be trusted (:func:`equilip.certify.interval`).
        """
        x = self._inputs(X)
        bound, pairs = self._proofs()
        lower, upper = certify.interval(self.form_, x, eps, bound=bound, pairs=pairs)
        return self._shaped(lower.numpy()), self._shaped(upper.numpy())

    def _shaped(self, y: Array) -> Array:
        return y[:, 0] if self._flat else y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _descend(
    network: nn.LBEN, factor: float, x: Tensor, target: Tensor, weight: Array, loss: Loss, config: TrainConfig
) -> list[float]:
    """Train ``factor`` times the network, in place; the mean loss of every epoch. ConfigError where it diverges."""
    # A gradient is as small as the factor; Adam's steps are not, if its own small number is as small too.
    optimiser = torch.optim.Adam(network.parameters(), lr=config.lr, eps=1e-8 * factor, fused=True)
    own = slopes(network)
    share = torch.from_numpy(weight / weight.mean())
    schedule = OneCycle(config.lr)
    curve = []

    def mean(rows: Tensor) -> Tensor:
        return (loss.each(factor * network(x[rows]), target[rows], own) * share[rows]).mean()

    network.train()
    for epoch in range(config.epochs):
        batches = order(config.seed, epoch, len(x)).split(config.batch)
        try:
            total, rate = descend(optimiser, schedule, batches, epoch, config.epochs, mean)
        except (ConvergenceError, InputError) as error:
            raise explained(error, network, optimiser, epoch + 1) from error
        curve.append(float(total) / len(x))
        if not math.isfinite(curve[-1]):
            raise ConfigError(
                f"the loss became {curve[-1]} in epoch {epoch + 1}; lower the learning rate lr, now {rate:g}"
            )
    network.eval()
    return curve


def _weighted(X: Array, y: NDArray[Any], sample_weight: ArrayLike | None) -> tuple[Array, NDArray[Any], Array]:
    """The samples of positive weight, and their weights."""
    if sample_weight is None:
        # Copied, because torch takes no memory that it must not write to.
        return np.array(X, order="C"), y, np.ones(len(X))
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (len(X),) or not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise InputError(
            f"sample_weight must be {len(X)} finite numbers, none negative and not all zero; got shape {weight.shape}"
        )
    used = weight > 0
    return X[used], y[used], weight[used]


def _centre(values: Array, weight: Array) -> tuple[Array, float]:
    """The mean of every column and one scale for all: the root of the mean of their variances, 1 where that is 0."""
    mean = np.average(values, axis=0, weights=weight)
    with np.errstate(over="ignore"):
        scale = math.sqrt(np.average((values - mean) ** 2, axis=0, weights=weight).mean())
    if not math.isfinite(scale):
        raise InputError("the numbers are too large to be squared; divide them first")
    return mean, scale if scale > 1e-12 * (1e-290 + float(np.abs(mean).max())) else 1.0


def _standardisation(X: Array, weight: Array) -> Standardisation:
    mean, scale = _centre(X, weight)
    return Standardisation(torch.from_numpy(mean), torch.full((X.shape[1],), scale, dtype=torch.float64))
