"""Sect. 3.1 and 3.3: training."""
