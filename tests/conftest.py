"""What every test here shares."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples in every run, and no judgement of how busy the machine is.
settings.register_profile("equilip", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("equilip")
