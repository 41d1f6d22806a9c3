"""`python -m dari` is the command `dari`."""

import sys

from dari.daemon.cli import main

sys.exit(main())
