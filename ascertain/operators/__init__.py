"""Facts of every operator, one file per family; importing this package registers all readers.

A new family is one module, imported here. Readers are found through `ascertain.operators.reading`.
"""

from ascertain.operators import attention, einsum, norms, recurrent, resampling  # noqa: F401  (readers only)
from ascertain.operators.affine import Dense, MatrixProduct, Scale, Shift, Sum
from ascertain.operators.bilinear import Product
from ascertain.operators.convolution import Conv, ConvTranspose
from ascertain.operators.derivatives import Adjoint, Derivative, Slope
from ascertain.operators.gated import Gelu, Hardswish, Mish, Silu, TanhGelu
from ascertain.operators.maximum import GroupSort, Maximum, MaxPool, Minimum, ReduceMax
from ascertain.operators.movement import Expand, Reshape, Transpose
from ascertain.operators.normalization import BatchNorm
from ascertain.operators.periodic import Cos, Sin, Tan
from ascertain.operators.piecewise import Abs, Clip, LeakyRelu, Relu, Sign
from ascertain.operators.pooling import AveragePool
from ascertain.operators.powers import Power, RealPower
from ascertain.operators.reduction import Reduce
from ascertain.operators.selection import Concat, Gather, Pad, Slice
from ascertain.operators.sigmoidal import Atan, Erf, LogSigmoid, Sigmoid, Softsign, Tanh
from ascertain.operators.smooth import Elu, Exp, Log, Reciprocal, Rsqrt, Softplus, Sqrt, Square
from ascertain.operators.softmax import LogSoftmax, LogSumExp, Softmax
from ascertain.operators.standardization import Standardize
from ascertain.operators.steps import Ceil, Floor, Heaviside, Round

__all__ = [
    "Abs",
    "Adjoint",
    "Atan",
    "AveragePool",
    "BatchNorm",
    "Ceil",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Dense",
    "Derivative",
    "Elu",
    "Erf",
    "Exp",
    "Expand",
    "Floor",
    "Gather",
    "Gelu",
    "GroupSort",
    "Hardswish",
    "Heaviside",
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
    "Power",
    "Product",
    "RealPower",
    "Reciprocal",
    "Reduce",
    "ReduceMax",
    "Relu",
    "Reshape",
    "Round",
    "Rsqrt",
    "Scale",
    "Shift",
    "Sigmoid",
    "Sign",
    "Silu",
    "Sin",
    "Slice",
    "Slope",
    "Softmax",
    "Softplus",
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
