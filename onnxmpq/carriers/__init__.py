"""Carriers: how codes of weights lie in a file, and how they are turned back into numbers; one file each.

dq       codes -> DequantizeLinear -> layer
cast8    4- or 2-bit codes -> Cast(int8) -> DequantizeLinear -> layer    (widened once, when a session starts)
castmul  codes -> Cast(float) -> Mul(scale) -> layer                     (turned to float once)
gather   Gather(codes) -> Cast(float) -> Mul(Gather(scale))              (only the rows that are looked up)
"""
