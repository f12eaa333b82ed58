"""The passes that come with onnxmpq, and the table in which they are found."""

from onnxmpq.model.passkit import Pass
from onnxmpq_passes.convert_opset import ConvertOpset
from onnxmpq_passes.drop_initializer_inputs import DropInitializerInputs
from onnxmpq_passes.equalise_layers import EqualiseLayers
from onnxmpq_passes.fix_shapes import FixShapes
from onnxmpq_passes.fold_batch_norm import FoldBatchNorm
from onnxmpq_passes.fold_constants import FoldConstants
from onnxmpq_passes.fold_pad import FoldPad
from onnxmpq_passes.fuse_gelu import FuseGelu
from onnxmpq_passes.hoist_gather import HoistGather
from onnxmpq_passes.infer_shapes import InferShapes
from onnxmpq_passes.inline_functions import InlineFunctions
from onnxmpq_passes.lift_constants import LiftConstants
from onnxmpq_passes.name_everything import NameEverything
from onnxmpq_passes.remove_dead_code import RemoveDeadCode
from onnxmpq_passes.remove_dropout import RemoveDropout
from onnxmpq_passes.remove_identity import RemoveIdentity

PASSES: tuple[type[Pass], ...] = (
    ConvertOpset,
    DropInitializerInputs,
    EqualiseLayers,
    FixShapes,
    FoldBatchNorm,
    FoldConstants,
    FoldPad,
    FuseGelu,
    HoistGather,
    InferShapes,
    InlineFunctions,
    LiftConstants,
    NameEverything,
    RemoveDeadCode,
    RemoveDropout,
    RemoveIdentity,
)

__all__ = [
    "PASSES",
    "ConvertOpset",
    "DropInitializerInputs",
    "EqualiseLayers",
    "FixShapes",
    "FoldBatchNorm",
    "FoldConstants",
    "FoldPad",
    "FuseGelu",
    "HoistGather",
    "InferShapes",
    "InlineFunctions",
    "LiftConstants",
    "NameEverything",
    "RemoveDeadCode",
    "RemoveDropout",
    "RemoveIdentity",
]
