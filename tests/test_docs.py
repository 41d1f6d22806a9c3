"""The examples of README and docs run as they stand, each as a program of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")

EXAMPLES = [
    pytest.param(match[1], id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer(page.read_text()), 1)
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(code, tmp_path):
    """An example ends by itself, without an error or a warning. (It is not `__main__`, so a `cli()` is not run.)"""
    program = tmp_path / "example.py"
    program.write_text(code)
    run = f"import runpy; runpy.run_path({str(program)!r})"

    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", run],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every relative link points to a file."""
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]

    assert broken == []


def test_the_service_of_the_readme_is_started_and_stopped(tmp_path):
    """README's daemon example does what its four lines of shell say."""
    readme = (ROOT / "README.md").read_text()
    code = next(match[1] for match in BLOCK.finditer(readme) if match[1].startswith("# service.py"))
    (tmp_path / "service.py").write_text(code)
    commands = re.findall(r"^dari (start|status|stop) (service\.py:main)", readme, re.MULTILINE)
    environment = {"DARI_DAEMON__RUNDIR": str(tmp_path / "run"), "DARI_DAEMON__LOGFILE": str(tmp_path / "service.log")}

    codes = [
        subprocess.run(
            [sys.executable, "-m", "dari", action, target],
            cwd=tmp_path,
            env={**os.environ, **environment},
            timeout=60,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        ).returncode
        for action, target in [*commands, ("status", "service.py:main")]
    ]

    assert (commands[0][0], codes) == ("start", [0, 0, 0, 3])
