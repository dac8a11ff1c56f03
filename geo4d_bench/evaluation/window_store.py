"""What an evaluation has scored so far, on disk: an interrupted one goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import DatasetError
from geo4d_bench.io import write_atomic

if TYPE_CHECKING:
    import pandas as pd

Source = Literal["generated", "copy_first_frame", "true_frames"]
SOURCES: tuple[Source, ...] = ("copy_first_frame", "generated", "true_frames")
Features = dict[str, npt.NDArray[np.float32]]
"""Of one window: ``<source>/<extractor>`` to (2, D), views n and m."""
_SAVE_EVERY = 16


class WindowStore:
    """``windows.csv`` and ``features.safetensors``; a finished window is kept.

    Args:
        folder: where both lie.
        run_id: of everything that decides a window's row; the number of windows doesn't.

    Raises:
        DatasetError: a file is there and is none of this program's, or holds another evaluation's windows.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self._table, self._arrays, self._run_id = folder / "windows.csv", folder / "features.safetensors", run_id
        self._rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._features: dict[tuple[str, int], Features] = {}
        if self._table.is_file():
            self._read()

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def add(self, rows: list[dict[str, Any]], features: Features) -> None:
        """A window's rows, one a source, and the features of its videos."""
        key = rows[0]["views"], rows[0]["window"]
        self._rows[key] = [{"run_id": self._run_id, **row} for row in rows]
        self._features[key] = features
        if len(self._rows) % _SAVE_EVERY == 0:
            self.save()

    def save(self) -> None:
        """Each file is written aside, then renamed. A window counts as finished only where both have it."""
        from safetensors.numpy import save

        if not self._rows:
            return
        flat = {f"{v}/{i}/{name}": a for (v, i), named in self._features.items() for name, a in named.items()}
        write_atomic(self._arrays, save(flat, metadata={"run_id": self._run_id}))
        write_csv(self.frame(list(self._rows)), self._table)

    def frame(self, keys: Sequence[tuple[str, int]]) -> pd.DataFrame:
        """The rows of these windows, sources in a fixed order."""
        import pandas as pd

        rows = pd.DataFrame([row for key in keys for row in self._rows[key]])
        rows["source"] = pd.Categorical(rows["source"], SOURCES)
        rows["views"] = pd.Categorical(rows["views"], [v for v in ("seen", "novel") if v in set(rows["views"])])
        rows = rows.sort_values(["views", "source", "window"], ignore_index=True)
        return rows.astype({"views": str, "source": str})

    def features(self, views: str, windows: Sequence[int], name: str) -> npt.NDArray[np.float64]:
        """(N, 2, D) features ``<source>/<extractor>`` of these windows, in their order."""
        return np.stack([self._features[views, i][name] for i in windows]).astype(np.float64)

    def _read(self) -> None:
        from safetensors import SafetensorError, safe_open

        rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in records(read_csv(self._table, "run_id")):
            if row["run_id"] != self._run_id:
                raise DatasetError(
                    f"{self._table}: holds another evaluation, of other options, data, weights or code; give another "
                    f"--out, or delete {self._table.parent}"
                )
            rows.setdefault((str(row["views"]), int(row["window"])), []).append(row)
        if not rows or not self._arrays.is_file():
            return
        try:
            with safe_open(self._arrays, framework="numpy") as file:
                same = (file.metadata() or {}).get("run_id") == self._run_id
                for name in file.keys() if same else ():
                    views, window, rest = name.split("/", 2)
                    self._features.setdefault((views, int(window)), {})[rest] = file.get_tensor(name)
        except (SafetensorError, ValueError) as error:
            raise DatasetError(
                f"{self._arrays}: not features of this program ({error}); delete it to score anew"
            ) from None
        self._rows = {k: v for k, v in rows.items() if len(v) == len(SOURCES) and k in self._features}


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Written aside, then renamed: a file that exists is whole. Floats in full: a resumed run gives the same."""
    write_atomic(path, table.to_csv(index=False, lineterminator="\n"))


def read_csv(path: Path, column: str) -> pd.DataFrame:
    """A table that has ``column``; DatasetError for anything else."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"run_id": str}, float_precision="round_trip")
    except ValueError as error:  # pandas' parser and empty-file errors are ValueErrors
        raise DatasetError(f"{path}: not a table of this program ({error}); delete it to score anew") from None
    if column not in table:
        raise DatasetError(f"{path}: has no column '{column}'; delete it to score anew")
    return table


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table's rows."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
