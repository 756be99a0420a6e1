"""Labelled images: class folders, the ILSVRC-2012 layout, digits, and a survey of them."""
