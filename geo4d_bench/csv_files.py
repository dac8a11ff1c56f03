"""Reads this program's CSV files, also after pandas, a spreadsheet, an editor or git has written them anew.

What only looks different is read as it was: byte order mark, UTF-16, ``;`` or tabs between cells with decimal commas,
line ends, quotes, blank lines, spaces around cells, an index column, other order of columns, a header once more.
What may have lost something is refused with its line.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo4d_bench.errors import DatasetError, Geo4DError, LedgerError
from geo4d_bench.io import read_file

if TYPE_CHECKING:
    import pandas as pd

RESTORE = "mend it, or put the file back as it was"
NAMES = frozenset(
    ["run_id", "views", "source", "episode", "camera_n", "camera_m", "name", "generator", "checkpoint", "ablation"]
).union(["sensor", "tracker", "segmenter", "split", "rig", "rooms", "commit", "task", "trained_rig"])
"""Columns of texts; those of other names in ``windows.csv``, ``metrics.csv`` and the like hold numbers."""
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_CONFLICT = re.compile(r"(<{7}|={7}|>{7}|\|{7})( |$)")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_INDEX = re.compile(r"|index|Unnamed: \d+")
"""Names that pandas gives to a column of row numbers."""


@dataclass(frozen=True)
class CsvFile:
    """A table of texts.

    Attributes:
        columns: their names.
        lines: of each row its line in the file, from 1, and its cells, as many as columns.
        torn: the last line, where it has no end and may be cut off; it is none of ``lines``.
    """

    path: Path
    columns: tuple[str, ...]
    lines: tuple[tuple[int, tuple[str, ...]], ...]
    torn: str | None = None

    def complete(self, error: type[Geo4DError] = LedgerError) -> CsvFile:
        """This table; ``error`` where it is :attr:`torn`."""
        if self.torn is None:
            return self
        raise error(
            f"{self.path}: the last line has no end and may be cut off ('...{self.torn[-20:]}'); if it is whole, end "
            f"it, else {RESTORE}"
        )


def whole_sha256(column: str, cell: str) -> bool:
    """Whether a last line without line end is whole, told by its last cell: the usual ``whole`` of :func:`read_csv`."""
    return column.endswith("sha256") and len(cell) == 64


def read_csv(
    path: Path, whole: Callable[[str, str], bool] = whole_sha256, error: type[Geo4DError] = LedgerError
) -> CsvFile:
    """The cells of a CSV file.

    Args:
        whole: given the last column and its cell in a last line without line end: whether nothing is cut off.
        error: what is raised.

    Raises:
        error: it cannot be read without a doubt; names the line and what to do.
        FileNotFoundError: it is not there.
    """
    *ended, last = re.split(r"\r\n|\n|\r", _text(path, error))
    texts = [(number, text) for number, text in enumerate([*ended, last], 1) if text.strip(' \t,;"')]
    for number, text in texts:
        if _CONFLICT.match(text):
            raise error(
                f"{path}, line {number}: git left a conflict here ('{text[:20]}'); keep the rows of both sides and "
                "take out the lines with the marks"
            )
    if not texts:
        return CsvFile(path, (), ())
    separator = max(",;\t", key=texts[0][1].count)
    rows = [(number, _cells(text, separator)) for number, text in texts]
    header, torn = rows[0][1] or [], None
    if texts[-1][0] == len(ended) + 1:
        cells = rows[-1][1] or []
        if len(rows) > 1 and (len(cells) < len(header) or not whole(header[-1], cells[-1])):
            rows, torn = rows[:-1], last
    return _checked(path, rows, torn, separator, error)


def read_frame(
    path: Path,
    key: Sequence[str],
    error: type[Geo4DError] = DatasetError,
    whole: Callable[[str, str], bool] = whole_sha256,
) -> pd.DataFrame:
    """A table of a command's results: :data:`NAMES` and ``*_sha256`` are texts, other columns numbers or truth values.

    Args:
        key: columns that must be there and tell every row from the others.

    Raises:
        error: see :func:`read_csv`; a row is cut off or stands there twice, or a cell is not a number.
    """
    import pandas as pd

    table = read_csv(path, whole, error).complete(error)
    for name in key:
        if name not in table.columns:
            raise error(f"{path}: has no column '{name}', expected {', '.join(key)} among its columns; {RESTORE}")
    seen: dict[tuple[str, ...], int] = {}
    for number, cells in table.lines:
        row = dict(zip(table.columns, cells, strict=True))
        first = seen.setdefault(tuple(row[name] for name in key), number)
        if first != number:
            raise error(f"{path}, line {number}: has the {', '.join(key)} of line {first}; take one of the two out")
    columns = {}
    for i, name in enumerate(table.columns):
        texts = [cells[i] for _, cells in table.lines]
        try:
            columns[name] = texts if name in NAMES or name.endswith("_sha256") else _values(texts)
        except ValueError:
            number, cell = next((n, c[i]) for n, c in table.lines if not _is_number(c[i]))
            raise error(f"{path}, line {number}: column {name} holds '{cell}', not a number; {RESTORE}") from None
    return pd.DataFrame(columns)


def _text(path: Path, error: type[Geo4DError]) -> str:
    data = read_file(path)
    encoding = next((name for mark, name in _BOMS.items() if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and data[1:2] == b"\0":
        encoding = "utf-16-le"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as fault:
        line = data[: fault.start].count(b"\n") + 1
        raise error(f"{path}, line {line}: not {encoding.upper()} text ({fault.reason}); save it as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise error(f"{path}, line {line}: holds zero bytes, as a file does that was not written to its end; {RESTORE}")
    return text


def _cells(text: str, separator: str) -> list[str] | None:
    """Of one line; None where a quoted cell has no end."""
    try:
        (cells,) = csv.reader([text], delimiter=separator, strict=True, skipinitialspace=True)
    except csv.Error:
        return None
    cells = [cell.strip() for cell in cells]
    # Spreadsheets write decimal commas where a comma is not what separates cells.
    return [c.replace(",", ".") if separator != "," and _DECIMAL_COMMA.fullmatch(c) else c for c in cells]


def _checked(
    path: Path, rows: list[tuple[int, list[str] | None]], torn: str | None, separator: str, error: type[Geo4DError]
) -> CsvFile:
    """The rows without columns of row numbers and repeated headers, each as long as the header."""
    header = rows[0][1] or []
    lines = []
    for number, cells in rows:
        if cells is None:
            raise error(f"{path}, line {number}: a quoted cell has no end; {RESTORE}")
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            raise error(f"{path}, line {number}: {len(cells)} cells, expected {len(header)}; {RESTORE}")
        if separator == "," and (numeral := next(filter(_DECIMAL_COMMA.fullmatch, cells), None)):
            raise error(f"{path}, line {number}: holds '{numeral}', which may be a decimal comma; write decimal points")
        if cells != header:
            lines.append((number, cells))
    keep = [i for i, name in enumerate(header) if not (_INDEX.fullmatch(name) and _counts([c[i] for _, c in lines]))]
    columns = tuple(header[i] for i in keep)
    if len(set(columns)) < len(columns) or "" in columns:
        name = next(name for name in columns if not name or columns.count(name) > 1)
        raise error(
            f"{path}, line {rows[0][0]}: '{name}' stands there twice or is no name; the first line must be the header, "
            f"which names each column once; {RESTORE}"
        )
    return CsvFile(path, columns, tuple((number, tuple(c[i] for i in keep)) for number, c in lines), torn)


def _counts(cells: list[str]) -> bool:
    return not any(cells) or all(cell.isdigit() for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _values(cells: list[str]) -> list[Any]:
    """A column's truth values, integers, or floats with NaN for an empty cell; ValueError where they are neither."""
    if all(cell.lower() in ("true", "false") for cell in cells):
        return [cell.lower() == "true" for cell in cells]
    if all(cell.removeprefix("-").isdecimal() for cell in cells):
        return [int(cell) for cell in cells]
    return [float(cell or "nan") for cell in cells]
