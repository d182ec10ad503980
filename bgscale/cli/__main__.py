"""``python -m bgscale.cli``."""

from bgscale.cli import main

main()
