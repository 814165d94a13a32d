"""Images as PNG inside the page."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

#: A difference of nothing, of more, and of less brightness.
_MORE, _LESS = (220, 60, 30), (40, 110, 235)


def picture(x: Tensor, shape: tuple[int, int, int]) -> str | None:
    """The raw input (p,), in [0, 1], as the address of an image; None where ``shape`` is of no image.

    ``shape``: (channels, height, width), with 1 channel (grey) or 3.
    """
    channels, height, width = shape
    if height < 2 or channels not in (1, 3):
        return None
    bright = (x.detach().double().clamp(0.0, 1.0) * 255).round().numpy().astype(np.uint8).reshape(shape)
    return _address(np.broadcast_to(bright.transpose(1, 2, 0), (height, width, 3)))


def difference(x: Tensor, other: Tensor, shape: tuple[int, int, int]) -> str | None:
    """Where ``other`` (p,) is brighter (red) and darker (blue) than ``x``, scaled to the largest change."""
    channels, height, width = shape
    if height < 2 or channels not in (1, 3):
        return None
    change = (other - x).detach().double().reshape(shape).mean(0).numpy()
    pixels = np.zeros((height, width, 4), dtype=np.uint8)
    pixels[..., :3] = np.where((change > 0)[..., None], _MORE, _LESS)
    pixels[..., 3] = np.rint(255 * np.abs(change) / max(float(np.abs(change).max()), 1e-300))
    return _address(pixels)


def _address(pixels: NDArray[np.uint8]) -> str:
    """Pixels (height, width, 3 or 4), red, green, blue and opacity, as a data: address of a PNG."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    lines = np.concatenate([np.zeros((height, 1), dtype=np.uint8), pixels.reshape(height, -1)], axis=1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
