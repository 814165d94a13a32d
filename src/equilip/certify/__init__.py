"""What can be proved about a form: bounds, radii, boxes, certificates.

Every number that this room calls a bound or a radius is proved for the stored numbers, with the rounding of the
proof itself accounted for. What is merely estimated from below lives in :mod:`equilip.attack`.
"""

from equilip.certify.bounds import Bound, Slopes, lipschitz, prove, raw_bound
from equilip.certify.boxes import Reachable, reachable
from equilip.certify.certificate import write as write_certificate
from equilip.certify.contraction import ContractionBounds, contraction_bounds
from equilip.certify.interval import interval
from equilip.certify.linf import LinfBound, lipschitz_linf
from equilip.certify.local import LocalBound, lipschitz_local
from equilip.certify.monotone import Monotone, monotone
from equilip.certify.norms import product_of_norms
from equilip.certify.pairs import RowBounds, rows
from equilip.certify.product import ProductBound, product_bound
from equilip.certify.promise import ALLOWANCE, check_guarantee
from equilip.certify.radius import radius
from equilip.certify.recall import recall
from equilip.certify.robust import LinfCertified, LinfMargins, certified_linf, linf_margins, linf_pairs
from equilip.norms import norm_bound

__all__ = [
    "ALLOWANCE",
    "Bound",
    "ContractionBounds",
    "LinfBound",
    "LinfCertified",
    "LinfMargins",
    "LocalBound",
    "Monotone",
    "ProductBound",
    "Reachable",
    "RowBounds",
    "Slopes",
    "certified_linf",
    "check_guarantee",
    "contraction_bounds",
    "interval",
    "linf_margins",
    "linf_pairs",
    "lipschitz",
    "lipschitz_linf",
    "lipschitz_local",
    "monotone",
    "norm_bound",
    "product_bound",
    "product_of_norms",
    "prove",
    "radius",
    "raw_bound",
    "reachable",
    "recall",
    "rows",
    "write_certificate",
]
