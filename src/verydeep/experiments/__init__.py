"""Sect. 4, the paper's experiments: the plan, presets, steps, claims and report."""
