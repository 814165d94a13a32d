"""Names of devices and number formats, checked."""

from __future__ import annotations

import torch

from equilip.errors import ConfigError


def device(name: str) -> torch.device:
    """The device of that name; ConfigError when it is unknown or not there."""
    try:
        found = torch.device(name)
        torch.zeros((), device=found).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"the device {name!r} is not available here; use --device cpu") from None
    return found


def dtype(name: str) -> torch.dtype:
    """The number format of that name; ConfigError when it is neither float32 nor float64."""
    if name not in ("float32", "float64"):
        raise ConfigError(f"unknown dtype {name!r}; use float32 or float64")
    return torch.float32 if name == "float32" else torch.float64
