"""Runs the command line."""

import signal
import sys


def main() -> None:
    """The ``ascertain`` command."""
    from ascertain.cli.main import run

    if hasattr(signal, "SIGPIPE"):
        # Ends quietly when the reader of the output goes away (head, less), not with an exit code that means something else.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
