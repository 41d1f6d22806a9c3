"""What every test relies on, however the run was started."""

from __future__ import annotations

import signal

# A job in a shell's background is started with SIGINT ignored, and so are the programs that it starts: then no test of
# Ctrl-C would hear of one.
signal.signal(signal.SIGINT, signal.default_int_handler)
