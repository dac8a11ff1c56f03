"""What an evaluation has scored so far, on disk: an interrupted one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.csv_files import read_frame
from geo4d_bench.errors import DatasetError
from geo4d_bench.io import check_file, write_atomic

if TYPE_CHECKING:
    import pandas as pd

SOURCES = ("copy_first_frame", "generated", "true_frames")
Features = dict[str, npt.NDArray[np.float32]]
"""Of one window: ``<source>/<extractor>`` to (2, D), views n and m."""
_SAVE_EVERY = 16
_KEY = ("views", "window", "source")
_DIGESTS = "rows"
"""In the features' metadata: a digest of each window's rows, which tells that no other program changed them."""


class WindowStore:
    """``windows.csv`` and ``features.safetensors`` in a folder; a window counts as finished only where both have it.

    Raises:
        DatasetError: a file is there and is none of this program's, or holds windows of another run than ``run_id``.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self._table, self._arrays, self._run_id = folder / "windows.csv", folder / "features.safetensors", run_id
        self._rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._features: dict[tuple[str, int], Features] = {}
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
        """Write both files, each aside, then renamed."""
        from safetensors.numpy import save

        if self._rows:
            flat = {f"{v}/{i}/{name}": a for (v, i), named in self._features.items() for name, a in named.items()}
            digests = json.dumps({f"{v}/{i}": _digest(rows) for (v, i), rows in self._rows.items()})
            write_atomic(self._arrays, save(flat, metadata={"run_id": self._run_id, _DIGESTS: digests}))
            write_csv(self.frame(list(self._rows)), self._table)

    def frame(self, keys: Sequence[tuple[str, int]]) -> pd.DataFrame:
        """The rows of these windows: seen before novel, sources in the order of SOURCES."""
        import pandas as pd

        rows = [row for key in keys for row in self._rows[key]]
        rows.sort(key=lambda row: (row["views"] != "seen", SOURCES.index(row["source"]), row["window"]))
        return pd.DataFrame(rows)

    def features(self, views: str, windows: Sequence[int], name: str) -> npt.NDArray[np.float64]:
        """(N, 2, D) features ``<source>/<extractor>`` of these windows, in their order."""
        return np.stack([self._features[views, i][name] for i in windows]).astype(np.float64)

    def _read(self) -> None:
        from safetensors import SafetensorError, safe_open

        anew = "put it back as it was, or give another --out to score anew"
        # A cut-off or rounded cell is told by the row's digest.
        try:
            table = read_frame(self._table, ("run_id", *_KEY), whole=lambda column, cell: True)
        except FileNotFoundError:
            return
        if (table["run_id"] != self._run_id).any():
            raise DatasetError(
                f"{self._table}: holds another evaluation, of other options, data, weights or code; give another --out"
            )
        if not self._arrays.is_file() and len(table):
            raise DatasetError(f"{self._arrays}: is missing beside {self._table.name}; {anew}")
        try:
            check_file(self._arrays)
            with safe_open(self._arrays, "np") as file:
                digests = (file.metadata() or {}).get(_DIGESTS, "{}")
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
            digest_of = json.loads(digests)
            for name, array in found.items():
                views, window, rest = name.split("/", 2)
                self._features.setdefault((views, int(window)), {})[rest] = array
        except FileNotFoundError:
            return
        except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a dtype that numpy lacks
            raise DatasetError(f"{self._arrays}: not features of this program ({error}); {anew}") from None
        try:
            self._take(table, digest_of, anew)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{self._table}: not a table of this program ({error}); {anew}") from None
        if again := self._features.keys() - self._rows.keys():
            print(f"{self._table}: lacks {len(again)} windows whose features are there; they are scored again")

    def _take(self, table: pd.DataFrame, digest_of: dict[str, str], anew: str) -> None:
        """Keep the windows of the table; DatasetError where one is not as it was scored."""
        for (views, window), group in table.groupby(["views", "window"], sort=False):
            key = str(views), int(str(window))
            rows = [{str(k): v for k, v in row.items()} for row in group.to_dict("records")]
            if len(rows) != len(SOURCES) or key not in self._features:
                raise DatasetError(f"{self._table}: a part of window {window} of {views} views is missing; {anew}")
            if digest_of.get("/".join(map(str, key))) != _digest(rows):
                raise DatasetError(
                    f"{self._table}: window {window} of {views} views is not as it was scored: something rounded or "
                    f"changed its rows; {anew}"
                )
            self._rows[key] = rows


def _digest(rows: Iterable[dict[str, Any]]) -> str:
    """Of a window's rows, whatever their order and that of their columns."""
    texts = sorted(
        json.dumps([(k, v if isinstance(v, str) else repr(float(v))) for k, v in sorted(row.items())]) for row in rows
    )
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Written aside, then renamed: a file that exists is whole. Floats in full: a resumed run gives the same."""
    write_atomic(path, table.to_csv(index=False, lineterminator="\n"))
