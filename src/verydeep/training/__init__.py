"""Sect. 3.1 and 3.3: how the nets are trained."""
