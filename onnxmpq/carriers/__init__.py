"""Carriers: how codes of weights lie in a file, and how they are turned back into numbers; one file each.

dq       codes -> DequantizeLinear -> layer
cast8    4- or 2-bit codes -> Cast(int8) -> DequantizeLinear -> layer    (widened once, when a session starts)
castmul  codes -> Cast(float) -> Mul(scale) -> layer                     (turned to float once)
planes   planes of 3-, 5-, 6- or 7-bit codes -> put together (int8) -> DequantizeLinear; with planesmul as castmul does
gather   Gather(codes) -> Cast(float) -> Mul(Gather(scale))              (only the rows that are looked up)
"""
