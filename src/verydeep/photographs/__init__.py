"""From a file to raw RGB: reading, decoding and rescaling photographs."""
