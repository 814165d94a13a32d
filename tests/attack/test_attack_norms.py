"""Balls and boxes: projections are the nearest points, and steepest points the best ones."""

from __future__ import annotations

import pytest
import torch
from attack_networks import randn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equilip.attack import L2, Box, Linf, Norm
from equilip.attack.norms import Room, nearest_on_plane, onto
from equilip.errors import InputError

NORMS = (L2(), Linf())


def setting(seed: int, scale: float, boxed: bool) -> tuple[Tensor, Tensor, Room | None]:
    """δ to be treated, points that are feasible in direction, and the room."""
    delta = randn(seed, 8, 12) * scale
    x = torch.rand(8, 12, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    x[:, :3] = 0.0  # on the box's edge, as most pixels of a digit are
    return x, delta, Room.around(x, Box()) if boxed else None


@settings(deadline=None, derandomize=True, max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from((1e-6, 0.1, 1.0, 1e3)),
    eps=st.sampled_from((0.05, 0.5, 3.0)),
    boxed=st.booleans(),
    norm=st.sampled_from(NORMS),
)
def test_projections_are_nearest_and_steps_are_steepest(
    seed: int, scale: float, eps: float, boxed: bool, norm: Norm
) -> None:
    x, delta, room = setting(seed, scale, boxed)
    feasible = norm.project(randn(seed + 2, 8, 12), eps, room)
    projected = norm.project(delta, eps, room)
    furthest = norm.furthest(delta, eps, room)
    for point in (projected, furthest, feasible):
        assert (norm.size(point) <= eps * (1 + 1e-12)).all()
        if boxed:
            assert ((x + point >= -1e-15) & (x + point <= 1 + 1e-15)).all()
    # The nearest point p of a convex set to v satisfies (v - p)·(q - p) <= 0 for all q in it.
    slack = torch.linalg.vecdot(delta - projected, feasible - projected)
    allowed = 2e-3 * eps * delta.norm(dim=1).clamp(min=eps)
    assert (slack <= allowed).all()
    best, other = torch.linalg.vecdot(delta, furthest), torch.linalg.vecdot(delta, feasible)
    assert (best >= other - 2e-3 * best.abs()).all()


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seed=st.integers(0, 2**31), boxed=st.booleans(), rise=st.sampled_from((0.0, 0.01, 0.5, 100.0)))
def test_the_nearest_point_of_a_plane(seed: int, boxed: bool, rise: float) -> None:
    _, gradient, room = setting(seed, 1.0, boxed)
    goal = torch.full((8,), rise, dtype=torch.float64)
    found = nearest_on_plane(gradient, goal, room)
    missing = found.isnan().any(dim=1)
    highest = torch.linalg.vecdot(gradient, Linf().furthest(gradient, 1e3, room))
    assert (highest[missing] < rise).all()
    assert (highest[~missing] >= 0.98 * rise).all()
    kept = found[~missing]
    reached = torch.linalg.vecdot(gradient[~missing], kept)
    assert torch.allclose(reached, goal[~missing], rtol=1e-2, atol=1e-12)
    # Nothing shorter reaches as high: the steepest point of that length reaches no more.
    for row, point in zip((~missing).nonzero().flatten(), kept, strict=True):
        here = None if room is None else Room(room.lower[row][None], room.upper[row][None])
        best = L2().furthest(gradient[row][None], float(point.norm()) + 1e-300, here)
        assert float(best[0] @ gradient[row]) <= float(point @ gradient[row]) * (1 + 1e-3) + 1e-12


def test_sizes_of_every_row_at_once() -> None:
    x, v, room = setting(3, 1.0, True)
    eps = torch.linspace(0.05, 0.6, 8, dtype=torch.float64)
    assert torch.allclose(onto(v, eps, room).norm(dim=1), eps, rtol=2e-3)
    assert torch.allclose(onto(v, eps, None).norm(dim=1), eps)
    assert torch.equal(x, setting(3, 1.0, True)[0])


def test_tiny_gradients_have_a_direction_and_zero_has_none() -> None:
    gradient = torch.tensor([[3e-36, 4e-36], [0.0, 0.0], [3.0, 4.0], [3e-25, -4e-25]])
    direction = L2().direction(gradient)
    assert torch.allclose(direction[[0, 2]], torch.tensor([0.6, 0.8]), rtol=1e-3)
    assert torch.allclose(direction[3], torch.tensor([0.6, -0.8]), rtol=1e-3)
    assert (direction[1] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_lie_in_the_ball_and_repeat(norm: Norm) -> None:
    like = torch.zeros(50, 7)
    draw = [norm.random(like, 0.3, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draw)
    assert (norm.size(draw[0]) <= 0.3 * (1 + 1e-6)).all()
    assert (norm.size(draw[0]) > 0.15).any()


def test_boxes_make_sense() -> None:
    with pytest.raises(InputError, match="lower < upper"):
        Box(1.0, 0.0)
    with pytest.raises(InputError, match="outside the box"):
        Box().check(torch.tensor([[0.5, 1.5]]))
    Box().check(torch.zeros(0, 3))


def test_points_on_a_sphere_without_extent() -> None:
    room = Room.around(torch.zeros(2, 3, dtype=torch.float64), Box())
    assert torch.equal(onto(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2), room), torch.zeros(2, 3).double())


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seed=st.integers(0, 2**31))
def test_no_point_of_the_box_is_higher_than_its_corner(seed: int) -> None:
    x, gradient, room = setting(seed, 1.0, True)
    assert room is not None
    gradient[:, 5] = 0.0
    corner = room.corner(gradient)
    anywhere = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) - x
    assert torch.equal(room.clamp(corner), corner)
    assert (torch.linalg.vecdot(gradient, corner) >= torch.linalg.vecdot(gradient, anywhere) - 1e-12).all()
