"""Set metrics in the table: features kept on disk, distances by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geo4d_bench.errors import DatasetError
from geo4d_bench.evaluation.summary import set_metrics
from geo4d_bench.evaluation.window_store import SOURCES, WindowStore

WINDOWS = 12
SHIFT = {"true_frames": 0.0, "generated": 1.0, "copy_first_frame": 3.0}


def filled(folder: Path) -> WindowStore:
    """Features of 2 numbers; each source's are the true ones moved by SHIFT, in view m by twice that."""
    draw = np.random.default_rng(0)
    store = WindowStore(folder, "one")
    for i in range(WINDOWS):
        true = draw.normal(size=(2, 2)).astype(np.float32)
        rows = [{"views": "seen", "source": s, "window": i, "episode": f"ep_{i % 4}"} for s in SOURCES]
        features = {
            f"{s}/{metric}": true + np.float32(SHIFT[s]) * np.array([[1], [2]], dtype=np.float32)
            for s in SOURCES
            for metric in ("fvd", "frechet_derivatives")
        }
        store.add([dict(row) for row in rows], features)
    store.save()
    return store


def test_distances_by_hand_and_their_columns(tmp_path: Path) -> None:
    filled(tmp_path)
    store = WindowStore(tmp_path, "one")  # from the disk
    keys = [("seen", i) for i in range(WINDOWS)]
    assert all(key in store for key in keys)
    windows = store.frame(keys)
    for source, shift in SHIFT.items():
        group = windows[windows["source"] == source]
        row = set_metrics(group, store, "frechet_derivatives")
        assert not any("paper_compat" in name for name in row)
        row |= set_metrics(group, store, "fvd")
        assert row["fvd_n"] == pytest.approx(2 * shift**2, abs=1e-5)
        assert row["frechet_derivatives_m"] == pytest.approx(2 * (2 * shift) ** 2, abs=1e-5)
        assert row["fvd_m_paper_compat"] == pytest.approx(2 * (2 * shift) ** 2, abs=1e-5)
        assert row["fvd_n_low"] <= row["fvd_n"] <= row["fvd_n_high"]


def test_other_settings_are_refused_and_windows_that_lost_a_part_are_named(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(DatasetError, match=r"windows\.csv: holds another evaluation"):
        WindowStore(tmp_path, "another")
    rows = pd.read_csv(tmp_path / "windows.csv")
    rows[~((rows.window == 3) & (rows.source == "generated"))].to_csv(tmp_path / "windows.csv", index=False)
    with pytest.raises(DatasetError, match=r"windows\.csv: a part of window 3 of seen views is missing"):
        WindowStore(tmp_path, "one")
    rows[rows.window != 3].to_csv(tmp_path / "windows.csv", index=False)
    store = WindowStore(tmp_path, "one")
    assert ("seen", 3) not in store
    assert ("seen", 4) in store
    (tmp_path / "features.safetensors").unlink()
    with pytest.raises(DatasetError, match=r"features\.safetensors: is missing beside windows\.csv"):
        WindowStore(tmp_path, "one")
