"""Find z: solvers, their proven error bounds, and gradients through the answer.

The problem (:class:`Equation`), the solver (:class:`Solver` and its kinds), the gradient (:class:`Gradient` and its
kinds) and the :class:`Solution` are four things; changing one touches no other. :func:`equilibrium` joins them.
"""

from equilip.solve.anderson import Anderson
from equilip.solve.auto import Auto
from equilip.solve.averaged import Averaged
from equilip.solve.convolutional import Convolutional
from equilip.solve.douglas_rachford import DouglasRachford
from equilip.solve.equilibrium import equilibrium
from equilip.solve.forward_backward import ForwardBackward
from equilip.solve.fourier import FourierPeacemanRachford
from equilip.solve.gradient import Gradient, Implicit, JacobianFree, Phantom, Unrolled
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.jacobi import Jacobi
from equilip.solve.metric import Metric
from equilip.solve.multipliers import find_metric
from equilip.solve.newton import Newton
from equilip.solve.peaceman_rachford import PeacemanRachford
from equilip.solve.plan import Pace, Plan
from equilip.solve.preconditioned import PreconditionedForwardBackward
from equilip.solve.proof import Prover
from equilip.solve.refined import Refined
from equilip.solve.settings import Settings
from equilip.solve.solution import Solution, Status
from equilip.solve.substitution import Substitution
from equilip.solve.tiers import TierByTier

__all__ = [
    "Anderson",
    "Auto",
    "Averaged",
    "Convolutional",
    "DouglasRachford",
    "Equation",
    "ForwardBackward",
    "FourierPeacemanRachford",
    "Gradient",
    "Implicit",
    "Jacobi",
    "JacobianFree",
    "Metric",
    "Newton",
    "Pace",
    "PeacemanRachford",
    "Phantom",
    "Plan",
    "PreconditionedForwardBackward",
    "Prepared",
    "Prover",
    "Refined",
    "Run",
    "Settings",
    "Solution",
    "Solver",
    "Status",
    "Substitution",
    "TierByTier",
    "Unrolled",
    "equilibrium",
    "find_metric",
]
