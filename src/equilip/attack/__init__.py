"""What can be found: attacks, and the largest slope. Estimates from below of what :mod:`equilip.certify` proves.

An attack is a small frozen object, called with a model (or a form, or a :class:`Target` made once for many calls),
raw inputs, labels and perturbation sizes; it returns :class:`Attacked`. Whatever is reported has been solved again in
float64 with the solver's proved error counted, and measured again. Nothing here changes a model.
"""

from equilip.attack.attack import Attack, checked_sizes
from equilip.attack.ball import PGD, FastGradient
from equilip.attack.ledger import Attacked
from equilip.attack.linf_slope import largest_slope_linf
from equilip.attack.losses import CrossEntropy, Loss, Margin
from equilip.attack.minimal import Minimal
from equilip.attack.norms import L2, Box, Linf, Norm
from equilip.attack.outcome import Outcome
from equilip.attack.record import record, save_contradictions
from equilip.attack.robustness import PART, Robustness, Row, Violations, default_attacks, robustness
from equilip.attack.slope import LargestSlope, largest_slope
from equilip.attack.target import Target

__all__ = [
    "L2",
    "PART",
    "PGD",
    "Attack",
    "Attacked",
    "Box",
    "CrossEntropy",
    "FastGradient",
    "LargestSlope",
    "Linf",
    "Loss",
    "Margin",
    "Minimal",
    "Norm",
    "Outcome",
    "Robustness",
    "Row",
    "Target",
    "Violations",
    "checked_sizes",
    "default_attacks",
    "largest_slope",
    "largest_slope_linf",
    "record",
    "robustness",
    "save_contradictions",
]
