"""python -m verydeep: what torchrun starts."""

from verydeep.cli import main

main()
