"""A model as segments: where it is cut, and the pieces of a lowered one."""
