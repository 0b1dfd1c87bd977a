"""Lipschitz constants that are theorems: semidefinite programs, verified in floating point."""

from ascertain.certify.lipschitz.audit import Audit, audit_lipschitz
from ascertain.certify.lipschitz.certificate import Certificate, read_certificate
from ascertain.certify.lipschitz.constant import Lipschitz, lipschitz, lipschitz_pairs, plant_constant
from ascertain.certify.lipschitz.local import LocalLipschitz, jacobian_bounds, local_lipschitz
from ascertain.certify.lipschitz.local_uses import certified_radii, lipschitz_budget, monotonicity
from ascertain.certify.lipschitz.plant import Plant, Stage, plant
from ascertain.certify.lipschitz.program import Norms
from ascertain.certify.lipschitz.recheck import recheck

__all__ = [
    "Audit",
    "Certificate",
    "Lipschitz",
    "LocalLipschitz",
    "Norms",
    "Plant",
    "Stage",
    "audit_lipschitz",
    "certified_radii",
    "jacobian_bounds",
    "lipschitz",
    "lipschitz_budget",
    "lipschitz_pairs",
    "local_lipschitz",
    "monotonicity",
    "plant",
    "plant_constant",
    "read_certificate",
    "recheck",
]
