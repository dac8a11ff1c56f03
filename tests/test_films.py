"""Films are written whatever the process has mapped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from geo4d_bench.films import Film

# Two neighbouring mappings that the kernel grants one by one count as one when the process is copied.
WRITE = """
import mmap, os, sys
from pathlib import Path
import numpy as np
from geo4d_bench.films import Film

memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
kib = [int(memory[name].split()[0]) for name in ("MemTotal", "SwapTotal")]
half = int(0.6 * 1024 * sum(kib))
large = [mmap.mmap(-1, half, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
try:
    child = os.fork()
except OSError:
    pass
else:
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    sys.exit(3)
with Film(Path(sys.argv[1]), 10) as film:
    for value in range(5):
        film.append(np.full((32, 48, 3), 40 * value, np.uint8))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux's memory")
def test_a_film_is_written_by_a_process_that_cannot_be_copied(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    done = subprocess.run([sys.executable, "-c", WRITE, path], capture_output=True, text=True, env=dict(os.environ))
    if done.returncode == 3:
        pytest.skip("this kernel copies such processes")
    assert done.returncode == 0, done.stderr
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (5, 0.5)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    film = Film(tmp_path / "nowhere" / "film.mp4", 10)
    with pytest.raises(OSError, match=r"could not be written by ffmpeg: .*film.mp4"):  # noqa: PT012
        film.append(np.zeros((32, 48, 3), np.uint8))
        film.close()
