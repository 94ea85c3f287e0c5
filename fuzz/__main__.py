"""`python -m fuzz`: the commands are in `fuzz.campaign.commands`."""

import signal
import sys


def main() -> int:
    """130 after ^C and SIGTERM, however early: what is imported here takes a second."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        from fuzz.campaign import commands

        return commands.main(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
