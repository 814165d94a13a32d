"""What can be proved about a form: bounds, radii, boxes, certificates.

Every number that this room calls a bound or a radius is proved for the stored numbers, with the rounding of the
proof itself accounted for. What is merely estimated from below lives in :mod:`equilip.attack`.
"""

from equilip.certify.bounds import Bound, Slopes, lipschitz, prove

__all__ = ["Bound", "Slopes", "lipschitz", "prove"]
