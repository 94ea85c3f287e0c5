"""`python -m trio_amped`: the command line."""

import sys

from .cli import main

sys.exit(main())
