"""Nets as files of other systems: one module per format, and the function that chooses by a file's ending."""
