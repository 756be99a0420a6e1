"""Sect. 3.2 and 4: how the nets are tested. A result is a matrix of posteriors."""
