"""Targets: what a runtime can execute in few bits, as data.

A target is one TOML file. It says, for each kind of layer, which options there are and how Q/DQ must stand for the
runtime to use its integer kernels; which other operators may run between them on codes; how narrow codes are stored;
and which model files the runtime loads. ``onnxmpq targets NAME`` explains one. The built-in files are in
``onnxmpq/targets/builtin``; anybody's own file is used by its path.
"""

from onnxmpq.targets.named import builtin_names, names, split_variant, target
from onnxmpq.targets.reader import parse_target
from onnxmpq.targets.schema import (
    ISAS,
    LAYER_OPS,
    CarrierName,
    DialectName,
    FollowerRule,
    Isa,
    LayerRule,
    Limits,
    Rounds,
    Target,
    TargetVariant,
)

__all__ = [
    "ISAS",
    "LAYER_OPS",
    "CarrierName",
    "DialectName",
    "FollowerRule",
    "Isa",
    "LayerRule",
    "Limits",
    "Rounds",
    "Target",
    "TargetVariant",
    "builtin_names",
    "names",
    "parse_target",
    "split_variant",
    "target",
]
