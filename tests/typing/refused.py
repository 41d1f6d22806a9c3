"""What the checkers must refuse: every line that ends in `# error`, and no other. Read by tests/test_exports.py."""

from __future__ import annotations

import dari


def work(number: int) -> dari.Steps[str]:
    yield dari.sleep(1)
    return str(number)


dari.Nope  # error
dari.run(work, "text")  # error
number: int = dari.run(work, 1)  # error
dari.run(work)  # error
dari.sleep("soon")  # error
