"""Damaged episode files: a DatasetError that names the file each, or nothing changed; no crash, hang or blow-up.

They are read in child processes whose memory is limited and that fail when anything outside the dataset is opened.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = int(os.environ.get("GEO4D_HOSTILE", "1")) * 100
_READER = Path(__file__).parents[1] / "damaged_episodes.py"


def test_damaged_files_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(_READER), str(tmp_path), str(FILES)],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert sum(int(n) for n in counts.values()) == FILES
    assert int(counts["refused"]) > 0.85 * FILES  # the others hit bytes that mean nothing: alignment, old versions


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_cut_file_is_read_up_to_its_states(tmp_path: Path, share: float) -> None:
    """What was simulated lies at the beginning; everything after it may be lost."""
    import numpy as np
    from damaged_episodes import write

    from geo4d_bench.dataset.reader import EpisodeFile, read_simulated
    from geo4d_bench.errors import DatasetError

    whole = write(tmp_path / "ep_000000.hdf5", frames=40)
    size = whole.stat().st_size
    cut = tmp_path / "ep_000001.hdf5"
    cut.write_bytes(whole.read_bytes()[: int(size * share)])
    with pytest.raises(DatasetError, match=r"ep_000001\.hdf5: not a whole HDF5 file"):
        _ = EpisodeFile(cut).trajectory
    if share == 0.0:
        with pytest.raises(DatasetError, match=r"ep_000001\.hdf5"):
            read_simulated(cut, size)
    else:
        found, _ = read_simulated(cut, size)
        assert np.array_equal(found.states, EpisodeFile(whole).trajectory.states)
