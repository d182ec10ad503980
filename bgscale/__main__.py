"""The command, as ``python -m bgscale``: where a script folder is not in the path."""

from bgscale.cli import main

if __name__ == "__main__":
    main(prog_name="python -m bgscale")
