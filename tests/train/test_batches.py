"""Splits and shifts: nothing is lost, nothing meets, and seeds decide."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.errors import ConfigError
from equilip.train.batches import Shift, generator, order, split


@given(count=st.integers(2, 200), share=st.floats(0.0, 0.9), seed=st.integers(0, 5))
def test_split_divides(count: int, share: float, seed: int) -> None:
    try:
        train, held = split(seed, count, share)
    except ConfigError:
        assert not 0 < round(share * count) < count
        return
    assert torch.equal(torch.cat([train, held]).sort().values, torch.arange(count))
    assert len(held) == round(share * count)
    assert torch.equal(split(seed, count, share)[1], held)


def test_streams_do_not_meet() -> None:
    draws = [torch.rand(4, generator=generator(3, *more)).tolist() for more in ((0,), (1,), (0, 1), (0, 2), (1, 2))]
    assert len({tuple(draw) for draw in draws}) == 5
    assert not torch.equal(order(0, 0, 50), split(0, 50, 0.5)[0])


@settings(max_examples=30)
@given(
    channels=st.sampled_from([1, 3]), height=st.integers(2, 7), width=st.integers(2, 7), pixels=st.integers(1, 3),
    seed=st.integers(0, 100),
)  # fmt: skip
def test_a_shifted_image_is_one_of_the_shifts(channels: int, height: int, width: int, pixels: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(5, channels, height, width, generator=source) + 1
    moved = Shift(pixels, (channels, height, width)).apply(images.flatten(1), source).view_as(images)

    def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
        found = torch.zeros_like(image)
        for row in range(height):
            for column in range(width):
                if 0 <= row - down < height and 0 <= column - right < width:
                    found[:, row, column] = image[:, row - down, column - right]
        return found

    steps = range(-pixels, pixels + 1)
    for image, result in zip(images, moved, strict=True):
        assert any(torch.equal(result, shifted(image, down, right)) for down in steps for right in steps)


def test_every_shift_occurs() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    moved = Shift(1, (1, 5, 5)).apply(image.expand(300, 1, 5, 5).flatten(1), torch.Generator().manual_seed(0))
    assert len({int(row.argmax()) for row in moved}) == 9


def test_a_share_that_leaves_nothing() -> None:
    with pytest.raises(ConfigError, match="leaves 0 to hold out and 3 to train on"):
        split(0, 3, 0.1)
