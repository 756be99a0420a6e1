"""The commands, one module per group. They parse arguments and print results; other modules do the work."""
