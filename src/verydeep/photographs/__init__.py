"""Read, decode and rescale photographs: from a file to raw RGB."""
