"""Budgets: one file each, and how they are typed; `search.within` is the loop that keeps them.

size=30%      of the float file, or bytes: 5MB, 300kB, 123456
bits=4        mean bits of a weight
bops=25%      of the float model's bit operations, or a number: 1.5G
memory=40MB   weights and the largest activations together, or a share of what float takes
drop=1%       how far the measured metric may fall; no row: the smallest file that keeps it is searched for
"""
