"""The guard: no ruined result is silent.

damage      what a file does to the outputs of its float model, and from where on that is too much
boundaries  local errors of all layers from one run, hop by hop
probe       plans measured on a few samples
culprits    the units that ruin a plan, and the plan that keeps them finer
judge       a file judged on the calibration samples, and what is said of it
"""
