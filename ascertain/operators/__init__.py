"""Facts of every operator, one file per family; importing this package registers all readers.

A family is one module listed here. Readers are found through `ascertain.operators.reading`.
"""

from ascertain.operators.affine import Dense, MatrixProduct, Scale, Shift, Sum
from ascertain.operators.convolution import Conv, ConvTranspose
from ascertain.operators.movement import Expand, Reshape, Transpose
from ascertain.operators.normalization import BatchNorm
from ascertain.operators.piecewise import Relu
from ascertain.operators.pooling import AveragePool
from ascertain.operators.reduction import Reduce
from ascertain.operators.selection import Concat, Gather, Pad, Slice

__all__ = [
    "AveragePool",
    "BatchNorm",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Expand",
    "Gather",
    "MatrixProduct",
    "Pad",
    "Reduce",
    "Relu",
    "Reshape",
    "Scale",
    "Shift",
    "Slice",
    "Sum",
    "Transpose",
]
