"""What checkpoints were trained on and how, as far as their folders are still there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geo4d_bench.errors import RunError
from geo4d_bench.rollout.ledger import EpisodeRow
from geo4d_bench.runs import differences, read_run


@dataclass(frozen=True)
class Training:
    """A checkpoint's folder, and the settings of its training."""

    folder: Path
    settings: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """All that decides the checkpoint but the training seed, and where the data lies."""
        return {name: value for name, value in self.settings.items() if name not in ("seed", "data")}


def find(folders: Iterable[Path]) -> dict[str, Training]:
    """The trainings whose checkpoints lie in or below folders, by the checkpoint's sha256."""
    from geo4d_bench.model.checkpoint import CONFIG_NAME, WEIGHTS_NAME, checkpoint_sha256

    found = {}
    for path in sorted({path for folder in folders if folder.is_dir() for path in folder.rglob("run.json")}):
        try:
            run = read_run(path.parent)
        except RunError:
            continue  # another program's
        whole = all((path.parent / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME))
        if whole and run is not None and "data_sha256" in run["settings"]:
            found[checkpoint_sha256(path.parent)] = Training(path.parent, run["settings"])
    return found


def doubt(checkpoints: Iterable[str], trainings: Mapping[str, Training]) -> str:
    """Why checkpoints may not be training seeds of one method; empty where they are."""
    names = sorted(checkpoints)
    unknown = [name for name in names if name not in trainings]
    if unknown:
        return f"the trainings of {', '.join(name[:8] for name in unknown)} are not there to be compared"
    first = trainings[names[0]]
    for name in names[1:]:
        if trainings[name].recipe != first.recipe:
            what = differences(first.recipe, trainings[name].recipe).replace(" there", "").replace(" asked for", "")
            return f"{first.folder} and {trainings[name].folder} differ in more than their seed: {what}"
    return ""


def folders_of(rows: Iterable[EpisodeRow], sources: Mapping[EpisodeRow, Path]) -> set[Path]:
    """Where trainings of rows' checkpoints may lie: in the folders that hold the rollouts' folders."""
    return {sources[row].parent.parent for row in rows}
