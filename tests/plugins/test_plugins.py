"""Another package's policy, tracker, generator, task and metric, as the docs say: installed, played, scored, reported.

Their code is that of the docs' pages, so that what a newcomer copies works.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("adding_a_policy.md", "adding_a_tracker.md", "adding_a_generator.md", "adding_a_metric.md")
TASK = '''
import dataclasses

from geo4d_bench.tasks.store_cereal import StoreCereal


class HurriedCereal(StoreCereal):
    """The same box and shelf, in two seconds."""

    spec = dataclasses.replace(StoreCereal.spec, id="hurried_cereal", max_seconds=2.0)
'''


@dataclass
class Environment:
    """A virtual environment of its own, and a folder to work in."""

    programs: Path
    work: Path

    def bench(self, *args: object) -> str:
        """Run a command; returns stdout."""
        done = subprocess.run(
            [self.programs / "geo4d-bench", *map(str, args)], cwd=self.work, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    root = tmp_path_factory.mktemp("plugins")
    package = root / "package"
    _write_package(package)
    venv.create(root / "venv")
    programs = root / "venv" / "bin"
    site = subprocess.check_output(
        [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    # What this environment has, without copying it: gigabytes of torch are not installed twice.
    here = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site.strip()) / "beside.pth").write_text("".join(f"import site; site.addsitedir({p!r})\n" for p in here))
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--python", programs / "python", "install", "-q", "--no-deps",
            "--no-build-isolation", "--no-index", package,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    script = programs / "geo4d-bench"
    script.write_text(f"#!{programs / 'python'}\nfrom geo4d_bench.cli import console\nconsole()\n")
    script.chmod(0o755)
    return Environment(programs, root)


def _write_package(package: Path) -> None:
    points = '[project.entry-points."geo4d_bench.tasks"]\nhurried_cereal = "my_package.task:HurriedCereal"\n'
    for page in PAGES:
        for language, block in re.findall(r"```(toml|python)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
            if language == "toml":
                points += block.removeprefix("# pyproject.toml\n")
            else:
                path = package / block.split(maxsplit=2)[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block)
    (package / "my_package" / "__init__.py").touch()
    (package / "my_package" / "task.py").write_text(TASK)
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "my-package"\nversion = "0.1"\n{points}'
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_they_are_listed_with_their_options(environment: Environment) -> None:
    text = environment.bench("rollout", "--policy", "hover", "--help")
    for name in ("hover", "still", "still_calibrated", "oracle_video"):
        assert re.search(rf"\b{name}\b", text), text
    assert "--lift-m" in text
    assert "How far above the start" in text
    assert "--lift-m" not in environment.bench("rollout", "--help")
    assert "still_nano" in environment.bench("train", "--help")
    assert "median" in environment.bench("evaluate", "--help")
    assert "hurried_cereal" in environment.bench("tasks")


def test_a_policy_and_a_task_are_played_and_reported(environment: Environment) -> None:
    common = ("rollout", "--task", "hurried_cereal", "--episodes", 1, "--workers", 1)
    environment.bench(*common, "--policy", "hover", "--lift-m", 0.1)
    environment.bench(*common, "--policy", "oracle_video", "--tracker", "median", "--segmenter", "resting")
    (row,) = _rows(environment.work / "runs" / "hurried_cereal" / "rollout_oracle_video_novel" / "episodes.csv")
    assert (row["tracker"], row["segmenter"]) == ("median", "resting")
    (row,) = _rows(environment.work / "runs" / "hurried_cereal" / "rollout_hover_novel" / "episodes.csv")
    assert (row["task"], row["policy"], row["generator"], row["status"]) == ("hurried_cereal", "hover", "", "timeout")
    assert (row["tracker"], row["segmenter"]) == ("", "")
    assert row["privileged"] == "false"
    environment.bench("report", "--task", "hurried_cereal")
    page = (environment.work / "runs" / "hurried_cereal" / "report" / "report.html").read_text()
    assert "hover" in page


def test_a_generator_is_trained_scored_with_a_tracker_and_played(environment: Environment, tiny_dataset: Any) -> None:
    environment.bench(
        "train", "--data", tiny_dataset.train, "--preset", "still_nano", "--steps", 2, "--batch-size", 1,
        "--val-windows", 0, "--out", "still",
    )  # fmt: skip
    environment.bench(
        "evaluate", "--checkpoint", "still", "--data", tiny_dataset.eval, "--windows", 1, "--views", "novel",
        "--tracker", "median", "--segmenter", "resting",
    )  # fmt: skip
    rows = _rows(environment.work / "still" / "evaluation" / "metrics.csv")
    assert {(row["generator"], row["tracker"], row["segmenter"]) for row in rows} == {("still", "median", "resting")}
    assert [float(row["flicker_n"]) for row in rows if row["source"] == "copy_first_frame"] == [0.0]
    environment.bench(
        "rollout", "--task", "hurried_cereal", "--policy", "still", "--checkpoint", "still", "--episodes", 1,
        "--workers", 1, "--rig", "hemisphere16", "--out", "played",
    )  # fmt: skip
    (row,) = _rows(environment.work / "played" / "episodes.csv")
    assert (row["policy"], row["generator"], row["ablation"], row["status"]) == ("still", "still", "none", "timeout")
    assert len(row["checkpoint"]) == 64


def test_a_package_that_cannot_be_imported_is_named(environment: Environment) -> None:
    broken = environment.work / "package" / "my_package" / "hover.py"
    installed = next((environment.work / "venv").rglob("my_package/hover.py"))
    installed.write_text("import nothing_of_that_name\n")
    try:
        done = subprocess.run(
            [environment.programs / "geo4d-bench", "rollout", "--policy", "hover"],
            cwd=environment.work, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        installed.write_text(broken.read_text())
    assert done.returncode == 2
    assert "the policy 'hover' of my-package cannot be imported from my_package.hover:Hover" in done.stderr
    assert "Traceback" not in done.stderr
