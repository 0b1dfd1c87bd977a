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
from ascertain.probes.degeneracy import Coupling, Degeneracy, LayerDegeneracy, degeneracy
from ascertain.probes.dictionaries import ReconstructionError, reconstruction_error
from ascertain.probes.dimension import Dimension, dimension
from ascertain.probes.directions import AccuracyKept, ClassDirections, accuracy_kept, class_directions
from ascertain.probes.feature_merging import FeatureMerging, MergedLayer, merge_features
from ascertain.probes.geometry import RSA, LinearPredictivity, MutualNeighbours, Procrustes
from ascertain.probes.graph_module import GraphModule
from ascertain.probes.information import (
    Binned,
    Compressed,
    Information,
    InformationPlane,
    Neighbours,
    Noisy,
    information_plane,
    mutual_information,
)
from ascertain.probes.interaction import Basis, Interactions, interaction_basis, interactions
from ascertain.probes.kernels import CKA
from ascertain.probes.learning_coefficient import LearningCoefficient, Sampler, learning_coefficient
from ascertain.probes.linear_maps import LinearMap, linear_map
from ascertain.probes.linear_probes import LinearProbe, linear_probe
from ascertain.probes.measure import Measure
from ascertain.probes.modularity import Modules, modularity, modules
from ascertain.probes.relevance import AlphaBeta, Epsilon, Gamma, Relevance, ZBox, relevance
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
    "AlphaBeta",
    "AttentionEntropy",
    "Basis",
    "Binned",
    "ClassDirections",
    "Compressed",
    "Convergence",
    "Coupling",
    "Degeneracy",
    "Dimension",
    "Epsilon",
    "FeatureMerging",
    "FewSamplesWarning",
    "Gamma",
    "GraphModule",
    "Information",
    "InformationPlane",
    "Interactions",
    "Isotropy",
    "LayerDegeneracy",
    "LearningCoefficient",
    "LinearMap",
    "LinearPredictivity",
    "LinearProbe",
    "Measure",
    "MergedLayer",
    "Metastability",
    "Modules",
    "Moments",
    "MutualNeighbours",
    "Neighbours",
    "Noisy",
    "Oversmoothing",
    "Procrustes",
    "ReconstructionError",
    "Relevance",
    "ResidualUse",
    "Sampler",
    "Similarity",
    "SimilarityMap",
    "Stitching",
    "WeightSpectrum",
    "ZBox",
    "accuracy_kept",
    "activations",
    "attention_entropy",
    "attention_weights",
    "class_directions",
    "convergence",
    "degeneracy",
    "dimension",
    "hopfield_energy",
    "hopfield_states",
    "information_plane",
    "interaction_basis",
    "interactions",
    "isotropy",
    "learning_coefficient",
    "linear_map",
    "linear_probe",
    "merge_features",
    "modularity",
    "modules",
    "mutual_information",
    "oversmoothing",
    "reconstruction_error",
    "relevance",
    "residual_use",
    "similarity",
    "similarity_map",
    "stitch",
    "time_map",
    "weight_spectra",
]
