"""Weights of other systems: one module per format, and what they have in common."""
