"""The scikit-learn estimators: they are such, and what they certify is never broken by attack."""

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import equilip
from equilip import certify
from equilip.errors import ConfigError, EquilipError, InputError
from equilip.estimators import LipschitzClassifier, LipschitzRegressor
from equilip.form import Form
from equilip.solve import Settings, equilibrium
from equilip.train import evaluation

X, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
FINE = Settings(tolerance=1e-11)


@parametrize_with_checks([LipschitzClassifier(epochs=40, width=16), LipschitzRegressor(epochs=40, width=16)])
def test_scikit_learn_accepts_them(estimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


@pytest.fixture(scope="module")
def irises() -> LipschitzClassifier:
    return LipschitzClassifier(gamma=2.0, width=16, epochs=40, random_state=0).fit(X, NAMES)


@pytest.fixture(scope="module")
def bumps() -> tuple[LipschitzRegressor, np.ndarray]:
    """Two targets of two raw inputs, steeper than the bound allows, in units far from 1."""
    x = np.random.default_rng(0).uniform(-300.0, 300.0, (150, 2))
    y = np.stack([np.sin(x[:, 0] / 50), 0.01 * x[:, 1]], axis=1)
    return LipschitzRegressor(gamma=0.01, width=16, epochs=60, random_state=0).fit(x, y), x


def largest_slope(form: Form, x: np.ndarray, reach: float) -> float:
    """The largest ‖y - y'‖ / ‖x - x'‖, raw, that ascent on pairs finds from near and from far pairs."""
    generator = torch.manual_seed(0)
    a = torch.from_numpy(x)
    gap = reach * torch.logspace(-3, 0, len(a), dtype=torch.float64)[:, None]
    b, found = a + gap * torch.randn(a.shape, dtype=torch.float64, generator=generator), 0.0
    for _ in range(20):
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        slope = (outputs(form, a) - outputs(form, b)).norm(dim=1) / (a - b).norm(dim=1)
        found = max(found, float(slope.detach().max()))
        da, db = torch.autograd.grad(slope.clamp(min=1e-30).log().sum(), (a, b))
        rate = 0.3 * (a - b).norm(dim=1, keepdim=True).detach()
        a = a + rate * da / da.norm(dim=1, keepdim=True).clamp(min=1e-30)
        b = b + rate * db / db.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return found


def outputs(form: Form, x: torch.Tensor) -> torch.Tensor:
    return equilibrium(form, x, FINE).y


def lowest(form: Form, x: np.ndarray, size: np.ndarray, objective, unit: np.ndarray | float = 1.0):  # type: ignore[no-untyped-def]
    """The smallest objective(y) (N,) that descent finds at points with ‖(x' - x) / unit‖₂ <= size (N,)."""
    start, length, scale = torch.from_numpy(x), torch.from_numpy(size)[:, None], torch.as_tensor(unit)
    noise = torch.randn(start.shape, dtype=torch.float64, generator=torch.manual_seed(1))
    smallest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for shift in (torch.zeros_like(start), length * noise / noise.norm(dim=1, keepdim=True)):
        for step in range(16):
            moved = shift.requires_grad_()
            value = objective(outputs(form, start + moved * scale))
            smallest = torch.minimum(smallest, value.detach())
            (gradient,) = torch.autograd.grad(value.sum(), moved)
            stride = length * (2.0 if step < 8 else 0.3)
            shift = moved.detach() - stride * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-30)
            shift = shift * (length / shift.norm(dim=1, keepdim=True).clamp(min=1e-300)).clamp(max=1.0)
    return smallest.numpy()


def margin(codes: np.ndarray):  # type: ignore[no-untyped-def]
    """y_code - y_j for the closest other class, (N,)."""
    own = torch.from_numpy(codes)[:, None]
    return lambda y: (y.gather(1, own) - y).scatter(1, own, torch.inf).amin(1)


def codes(classifier: LipschitzClassifier, x: np.ndarray) -> np.ndarray:
    return np.searchsorted(classifier.classes_, classifier.predict(x))


def test_it_learns_labels_that_are_text(irises: LipschitzClassifier) -> None:
    assert list(irises.classes_) == ["setosa", "versicolor", "virginica"]
    assert irises.score(X, NAMES) > 0.85
    proba = irises.predict_proba(X)
    assert np.array_equal(irises.classes_[proba.argmax(1)], irises.predict(X))
    assert np.allclose(proba.sum(1), 1.0)
    assert len(irises.loss_curve_) == 40
    assert irises.loss_curve_[-1] < 0.7 * irises.loss_curve_[0]


def test_no_attack_changes_a_class_within_its_radius(irises: LipschitzClassifier) -> None:
    radius = irises.certified_radius(X)
    assert (radius > 0).mean() > 0.9
    own = codes(irises, X)
    assert (lowest(irises.form_, X, radius * (1 - 1e-12), margin(own)) > -1e-9).all()
    flipped = lowest(irises.form_, X, 3 * radius, margin(own)) < 0
    assert flipped.mean() > 0.3, "an attack that never succeeds shows nothing"


def test_a_radius_about_the_true_class_is_zero_where_it_is_missed(irises: LipschitzClassifier) -> None:
    wrong = irises.predict(X) != NAMES
    assert wrong.any()
    radius = irises.certified_radius(X, NAMES)
    assert (radius[wrong] == 0).all()
    assert np.array_equal(radius[~wrong], irises.certified_radius(X)[~wrong])


@pytest.mark.parametrize("gamma", [0.05, 2.0, 40.0])
@pytest.mark.parametrize("standardise", [True, False])
def test_no_pair_beats_the_bound_and_the_bound_keeps_gamma(gamma: float, standardise: bool) -> None:
    model = LipschitzClassifier(gamma, width=12, epochs=10, standardise=standardise, random_state=1).fit(X, NAMES)
    assert model.lipschitz_bound_ <= gamma * (1 + 1e-6)
    found = largest_slope(model.form_, X[::5], reach=3.0)
    assert 0.3 * model.lipschitz_bound_ < found <= model.lipschitz_bound_ * (1 + 1e-8)


def test_the_units_are_those_of_x_with_standardisation_inside(irises: LipschitzClassifier) -> None:
    # Measured in eighths: an eighth of the slope per unit, eight times the radius, and the very same training.
    eighths = clone(irises).set_params(gamma=0.25).fit(8 * X, NAMES)
    assert np.array_equal(eighths.predict_proba(8 * X), irises.predict_proba(X))
    assert np.allclose(eighths.certified_radius(8 * X), 8 * irises.certified_radius(X), rtol=1e-6, atol=0)
    assert eighths.lipschitz_bound_ == pytest.approx(irises.lipschitz_bound_ / 8, rel=1e-6)


def test_after_a_scaler_the_radius_is_in_standard_deviations() -> None:
    wine, cultivar = load_wine(return_X_y=True)
    model = make_pipeline(StandardScaler(), LipschitzClassifier(2.0, width=16, epochs=30, random_state=0))
    model.fit(wine, cultivar)
    scaler, last = model[0], model[-1]
    scaled = scaler.transform(wine)
    radius = last.certified_radius(scaled)
    own = codes(last, scaled)
    assert (radius > 0).mean() > 0.9

    # No attack succeeds where ‖(x' - x) / std‖ <= radius, the ellipsoid that is meant ...
    assert (lowest(last.form_, scaled, radius * (1 - 1e-12), margin(own)) > -1e-9).all()
    # ... nor therefore in the ball of radius · min(std) in the columns' own units,
    within = radius * scaler.scale_.min()
    assert (lowest(last.form_, scaled, within, margin(own), unit=1 / scaler.scale_) > -1e-9).all()
    # but many do in the ball of the columns' own units that the number alone might suggest.
    assert (lowest(last.form_, scaled, radius, margin(own), unit=1 / scaler.scale_) < 0).mean() > 0.3


def test_no_attack_leaves_the_interval(bumps: tuple[LipschitzRegressor, np.ndarray]) -> None:
    model, x = bumps
    assert model.lipschitz_bound_ <= 0.01 * (1 + 1e-6)
    assert 0.3 * model.lipschitz_bound_ < largest_slope(model.form_, x[::5], reach=100.0) <= model.lipschitz_bound_
    for eps in (0.0, 5.0, 60.0):
        lower, upper = model.certified_interval(x, eps)
        assert lower.shape == upper.shape == model.predict(x).shape == (150, 2)
        reach = np.full(len(x), eps)
        for output in (0, 1):
            least = lowest(model.form_, x, reach, lambda y, i=output: y[:, i])
            most = -lowest(model.form_, x, reach, lambda y, i=output: -y[:, i])
            assert (lower[:, output] <= least + 1e-9).all()
            assert (most <= upper[:, output] + 1e-9).all()
            width = upper[:, output] - lower[:, output]
            assert (width <= 2 * eps * model.lipschitz_bound_ + 2e-4).all()
            if eps:
                assert ((most - least) / width).max() > 0.2, "an attack that never moves shows nothing"


def test_the_interval_counts_the_error_of_the_solve(bumps: tuple[LipschitzRegressor, np.ndarray]) -> None:
    model, x = bumps
    exact = outputs(model.form_, torch.from_numpy(x)).numpy()
    lower, upper = certify.interval(model.form_, torch.from_numpy(x), 0.0)
    assert (lower.numpy() <= exact).all()
    assert (exact <= upper.numpy()).all()
    assert (lower < upper).all()


def test_few_samples_at_a_time_have_the_same_outputs(
    irises: LipschitzClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = irises.predict_proba(X)
    monkeypatch.setattr(evaluation, "NUMBERS", 7 * irises.form_.hidden_size)
    np.testing.assert_allclose(irises.predict_proba(X), whole, atol=1e-6)


def test_a_regressor_fits_what_the_bound_allows() -> None:
    x = np.linspace(-2.0, 2.0, 100)[:, None]
    y = 3.0 * np.abs(x[:, 0]) + 7.0
    free = LipschitzRegressor(gamma=6.0, width=16, epochs=150, lr=3e-2, random_state=0).fit(x, y)
    assert free.score(x, y) > 0.98
    assert free.predict(x).shape == (100,)
    held = LipschitzRegressor(gamma=1.0, width=16, epochs=150, lr=3e-2, random_state=0).fit(x, y)
    prediction = held.predict(x)
    assert np.abs(np.diff(prediction) / np.diff(x[:, 0])).max() <= 1.0 + 1e-6
    assert prediction.max() - prediction.min() > 1.2


def test_loss_eps_trades_margins_for_radii(irises: LipschitzClassifier) -> None:
    robust = clone(irises).set_params(loss_eps=0.5, gamma=10.0).fit(X, NAMES)
    plain = clone(irises).set_params(gamma=10.0).fit(X, NAMES)
    assert (robust.certified_radius(X, NAMES) > 0.3).mean() > (plain.certified_radius(X, NAMES) > 0.3).mean()


def test_a_pickle_holds_a_safetensors_file_and_no_torch(irises: LipschitzClassifier) -> None:
    content = pickle.dumps(irises)
    assert not any("torch" in str(argument) for _, argument, _ in pickletools.genops(content) if argument is not None)
    again = pickle.loads(content)
    assert again.form_.sha256 == irises.form_.sha256
    assert np.array_equal(again.predict_proba(X), irises.predict_proba(X))
    assert again.lipschitz_bound_ == irises.lipschitz_bound_
    assert np.array_equal(again.certified_radius(X), irises.certified_radius(X))
    assert pickle.loads(pickle.dumps(LipschitzRegressor(gamma=3.0))).gamma == 3.0


def test_a_search_over_gamma_in_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), LipschitzClassifier(width=8, epochs=20, batch=8, random_state=0))
    search = GridSearchCV(pipeline, {"lipschitzclassifier__gamma": [0.5, 10.0]}, cv=2).fit(X, NAMES)
    assert search.best_score_ > 0.8
    best = search.best_estimator_[-1]
    assert best.gamma in (0.5, 10.0)
    assert best.lipschitz_bound_ <= best.gamma * (1 + 1e-6)


def test_the_seed_decides() -> None:
    def proba(seed: int) -> np.ndarray:
        return LipschitzClassifier(width=4, epochs=2, random_state=seed).fit(X, NAMES).predict_proba(X)

    assert np.array_equal(proba(3), proba(3))
    assert not np.array_equal(proba(3), proba(4))


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        ({"gamma": None}, ConfigError, "gamma"),
        ({"gamma": -1.0}, ConfigError, "gamma"),
        ({"width": 0}, ConfigError, "width"),
        ({"activation": "gelu"}, ConfigError, "gelu"),
        ({"loss_eps": -0.1}, ConfigError, "loss_eps"),
        ({"epochs": 0}, ConfigError, "epochs"),
        ({"lr": 1e30}, EquilipError, "lower the learning rate"),
    ],
)
def test_parameters_that_cannot_work(parameters: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        LipschitzClassifier(**parameters).fit(X[:60], NAMES[:60])


def test_mistakes_are_named(irises: LipschitzClassifier) -> None:
    with pytest.raises(InputError, match="'rose'"):
        irises.certified_radius(X[:2], ["setosa", "rose"])
    with pytest.raises(InputError, match="labels of shape"):
        irises.certified_radius(X[:2], NAMES[:3])
    with pytest.raises(InputError, match="one class"):
        LipschitzClassifier().fit(X[:9], NAMES[:9])
    with pytest.raises(InputError, match="sample_weight"):
        LipschitzClassifier().fit(X, NAMES, sample_weight=-np.ones(len(X)))
    with pytest.raises(InputError, match="too large"):
        LipschitzClassifier().fit(1e200 * X, NAMES)
    with pytest.raises(InputError, match="eps"):
        LipschitzRegressor(width=4, epochs=1).fit(X, SPECIES).certified_interval(X, -1.0)


def test_the_package_hands_them_on() -> None:
    assert equilip.LipschitzClassifier is LipschitzClassifier
    assert equilip.LipschitzRegressor is LipschitzRegressor
