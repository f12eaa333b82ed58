"""Dialects: how a graph says that a tensor is held in few bits; one file each.

qdq    x -> QuantizeLinear -> DequantizeLinear -> readers; biases: int32 codes -> DequantizeLinear
quant  x -> Quant -> readers, in any number of bits, as QONNX has it; biases stay float
"""
