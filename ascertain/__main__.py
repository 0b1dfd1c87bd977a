"""Runs the command line."""

import sys


def main() -> None:
    """The ``ascertain`` command."""
    from ascertain.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
