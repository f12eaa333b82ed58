"""How long a plan takes on this machine: measured on few plans, foreseen for all others.

design ─▶ observe ─▶ regions ─▶ model ─▶ fastest
plans     profiles   seconds    seconds   which kernels
          of files   by unit    of a plan each unit runs on
"""
