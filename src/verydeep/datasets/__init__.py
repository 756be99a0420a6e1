"""Images with classes: folders, the ILSVRC-2012 layout, digits, and what one reading of them finds."""
