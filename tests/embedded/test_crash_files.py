"""Files of which a killed process has written a part are made whole by the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_WRITERS = Path(__file__).with_name("killed_writers.py")


@pytest.mark.slow  # a process for each call
def test_files_whose_writer_was_killed_at_any_call_are_whole_when_they_are_written_again(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(_WRITERS), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert list(killed) == ["first volume", "changed volume", "certificates", "keys", "layer", "pod", "profile"]
    assert all(int(times) > 2 for times in killed.values()), killed
