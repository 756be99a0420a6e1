"""Sect. 3.2 and 4: testing the nets. Every result comes from a matrix of posteriors."""
