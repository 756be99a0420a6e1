"""Entry point of `python -m verydeep`, which torchrun starts."""

from verydeep.cli import main

main()
