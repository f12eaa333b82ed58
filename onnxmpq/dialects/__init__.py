"""Dialects: how a graph says that a tensor is held in few bits; one file each.

qdq   x -> QuantizeLinear -> DequantizeLinear -> readers; biases: int32 codes -> DequantizeLinear
"""
