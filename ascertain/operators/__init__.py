"""Facts of every operator, one file per family; importing this package registers all readers.

A new family is one module, imported here. Readers are found through `ascertain.operators.reading`.
"""

from ascertain.operators import attention, einsum, norms, recurrent, resampling  # noqa: F401  (readers only)
from ascertain.operators.affine import Dense, MatrixProduct, Scale, Shift, Sum
from ascertain.operators.bilinear import Product
from ascertain.operators.convolution import Conv, ConvTranspose
from ascertain.operators.gated import Gelu, Hardswish, Mish, Silu, TanhGelu
from ascertain.operators.maximum import GroupSort, Maximum, MaxPool, Minimum, ReduceMax
from ascertain.operators.movement import Expand, Reshape, Transpose
from ascertain.operators.normalization import BatchNorm
from ascertain.operators.periodic import Cos, Sin, Tan
from ascertain.operators.piecewise import Abs, Clip, LeakyRelu, Relu, Sign
from ascertain.operators.pooling import AveragePool
from ascertain.operators.reduction import Reduce
from ascertain.operators.selection import Concat, Gather, Pad, Slice
from ascertain.operators.sigmoidal import Atan, Erf, LogSigmoid, Sigmoid, Softsign, Tanh
from ascertain.operators.smooth import Exp, Log, Reciprocal, Rsqrt, Sqrt, Square
from ascertain.operators.softmax import LogSoftmax, LogSumExp, Softmax
from ascertain.operators.standardization import Standardize

__all__ = [
    "Abs",
    "Atan",
    "AveragePool",
    "BatchNorm",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Dense",
    "Erf",
    "Exp",
    "Expand",
    "Gather",
    "Gelu",
    "GroupSort",
    "Hardswish",
    "LeakyRelu",
    "Log",
    "LogSigmoid",
    "LogSoftmax",
    "LogSumExp",
    "MatrixProduct",
    "MaxPool",
    "Maximum",
    "Minimum",
    "Mish",
    "Pad",
    "Product",
    "Reciprocal",
    "Reduce",
    "ReduceMax",
    "Relu",
    "Reshape",
    "Rsqrt",
    "Scale",
    "Shift",
    "Sigmoid",
    "Sign",
    "Silu",
    "Sin",
    "Slice",
    "Softmax",
    "Softsign",
    "Sqrt",
    "Square",
    "Standardize",
    "Sum",
    "Tan",
    "Tanh",
    "TanhGelu",
    "Transpose",
]
