"""What every test relies on, however the run was started."""

from __future__ import annotations

import gc
import signal

from hypothesis import settings

# A job in a shell's background is started with SIGINT ignored, and so are the programs that it starts: then no test of
# Ctrl-C would hear of one.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No example is timed: a machine that does ten things at once may stall any of them.
settings.register_profile("dari", deadline=None)
settings.load_profile("dari")


def pytest_collection_finish() -> None:
    """Five thousand collected tests are no test's garbage, but every `gc.collect()` walked through them.

    (tests/drivers/test_cancel_across.py and test_nothing_left_behind.py in a whole run: 57 s, then 8.)
    """
    gc.collect()
    gc.freeze()
