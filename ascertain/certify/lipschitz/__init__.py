"""Lipschitz constants that are theorems: semidefinite programs, verified in floating point."""

from ascertain.certify.lipschitz.certificate import Certificate, read_certificate
from ascertain.certify.lipschitz.constant import Lipschitz, lipschitz, lipschitz_pairs, plant_constant
from ascertain.certify.lipschitz.plant import Plant, Stage, plant
from ascertain.certify.lipschitz.program import Norms
from ascertain.certify.lipschitz.recheck import recheck

__all__ = [
    "Certificate",
    "Lipschitz",
    "Norms",
    "Plant",
    "Stage",
    "lipschitz",
    "lipschitz_pairs",
    "plant",
    "plant_constant",
    "read_certificate",
    "recheck",
]
