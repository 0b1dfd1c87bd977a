"""Measurements of a network on data: arrays in, arrays out, no opinion."""

from ascertain.probes.activations import Activations, FewSamplesWarning, Moments, activations
from ascertain.probes.attention import (
    AttentionEntropy,
    Metastability,
    attention_entropy,
    attention_weights,
    hopfield_energy,
    hopfield_states,
)
from ascertain.probes.canonical import CCA, PWCCA, SVCCA
from ascertain.probes.dictionaries import ReconstructionError, reconstruction_error
from ascertain.probes.dimension import Dimension, dimension
from ascertain.probes.directions import AccuracyKept, ClassDirections, accuracy_kept, class_directions
from ascertain.probes.geometry import RSA, LinearPredictivity, MutualNeighbours, Procrustes
from ascertain.probes.kernels import CKA
from ascertain.probes.linear_probes import LinearProbe, linear_probe
from ascertain.probes.measure import Measure
from ascertain.probes.similarity import (
    Convergence,
    Similarity,
    SimilarityMap,
    convergence,
    similarity,
    similarity_map,
    time_map,
)
from ascertain.probes.stitching import Stitching, stitch
from ascertain.probes.transformers import Isotropy, Oversmoothing, ResidualUse, isotropy, oversmoothing, residual_use
from ascertain.probes.weights import WeightSpectrum, weight_spectra

__all__ = [
    "CCA",
    "CKA",
    "PWCCA",
    "RSA",
    "SVCCA",
    "AccuracyKept",
    "Activations",
    "AttentionEntropy",
    "ClassDirections",
    "Convergence",
    "Dimension",
    "FewSamplesWarning",
    "Isotropy",
    "LinearPredictivity",
    "LinearProbe",
    "Measure",
    "Metastability",
    "Moments",
    "MutualNeighbours",
    "Oversmoothing",
    "Procrustes",
    "ReconstructionError",
    "ResidualUse",
    "Similarity",
    "SimilarityMap",
    "Stitching",
    "WeightSpectrum",
    "accuracy_kept",
    "activations",
    "attention_entropy",
    "attention_weights",
    "class_directions",
    "convergence",
    "dimension",
    "hopfield_energy",
    "hopfield_states",
    "isotropy",
    "linear_probe",
    "oversmoothing",
    "reconstruction_error",
    "residual_use",
    "similarity",
    "similarity_map",
    "stitch",
    "time_map",
    "weight_spectra",
]
