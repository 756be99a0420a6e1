"""Weights of other systems: one module per format, and the code that they share."""
