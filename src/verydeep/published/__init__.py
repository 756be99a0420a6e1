"""Weights that others have published: a registry of them, and their download."""
