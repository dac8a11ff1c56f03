"""A machine without network, small: bundle.sh packs here, gpu_session.sh renders, trains, scores and measures there.

"There" is an environment that has what PyTorch brings and nothing of ours: no robosuite, mujoco, gymnasium, diffusers.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from geo4d_bench.cli import main
from geo4d_bench.model.generators import load_generator

SCRIPTS = Path(__file__).parents[2] / "scripts"
SESSION = SCRIPTS / "gpu_session.sh"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
NO_INDEX = ("No matching distribution found", "NewConnectionError", "ConnectTimeoutError", "Temporary failure in name")
OURS = ("geo4d_bench", "robosuite", "mujoco", "gymnasium", "diffusers", "hdf5plugin", "tyro")


def _run(script: Path, *arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {name: str(value) for name, value in variables.items()}
    return subprocess.run([script, *map(str, arguments)], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the packages that gpu_session.sh expects, and theirs."""
    home = tmp_path_factory.mktemp("node")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = home / "lib" / f"python{VERSION}" / "site-packages"
    expected = re.search(r'^NODE="([^"]*)"', SESSION.read_text(), re.MULTILINE)
    assert expected is not None
    names, seen = [name.rpartition("=")[2] for name in expected[1].split()] + ["transformers"], set[str]()
    while names:
        name = re.split(r"[^\w.-]", names.pop())[0]
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of another system
            continue
        names += [needed for needed in found.requires or () if "extra ==" not in needed]
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).is_symlink():
                (site / top).symlink_to(found.locate_file(top))
    assert not [name for name in OURS if (site / name).exists()]
    return home / "bin" / "python"


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.exhaustive)])
def scored(request: pytest.FixtureRequest) -> bool:
    """Whether held-out demonstrations are packed, too; to score takes as long as all else together."""
    return bool(request.param)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Any, scored: bool) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    out, data = folder / "bundle.tar.xz", folder / tiny_dataset.train.name
    data.symlink_to(tiny_dataset.train)
    if scored:
        (folder / tiny_dataset.eval.name).symlink_to(tiny_dataset.eval)
    done = _run(SCRIPTS / "bundle.sh", out, data, "--python", VERSION, PYTHON=sys.executable, XZ_PRESET=0)
    if any(reason in done.stderr for reason in NO_INDEX):
        pytest.skip(f"pip finds the bundle's packages nowhere: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.timeout(900)
def test_a_session_with_nothing_but_the_bundle(archive: Path, scored: bool, node: Path, tmp_path: Path) -> None:
    assert archive.stat().st_size <= 60 * 2**20
    out, work = tmp_path / "out", tmp_path / "work"
    done = _run(
        SESSION, archive, "--preset", "dit_debug", "--seconds", 2, "--windows", 1, "--out", out, "--work", work,
        "--bench", "dit_debug:2 nonsense:3", "--", "--val-windows", "1", "--n-validations", "1", "--batch-size", "2",
        PYTHON=node, OMP_NUM_THREADS=1,
    )  # fmt: skip
    with tarfile.open(out / "session.tar.gz") as packed:
        logs = {name: packed.extractfile(name) for name in packed.getnames() if name.endswith(".log")}
        said = "".join(f"\n{name}: {file.read().decode()}" for name, file in logs.items() if file)
        logged = any(name.endswith("training_log.csv") for name in packed.getnames())
    with (out / "stages.csv").open() as file:
        ends = {row["stage"]: int(row["exit"]) for row in csv.DictReader(file)}
    expected = {"opengl": 0, "render-store_cereal": 0, "train": 0}
    expected |= {"render-store_cereal_eval": 0, "evaluate": 0} if scored else {}
    assert ends == expected | {"weights": 0, "bench-dit_debug": 0, "bench-nonsense": 2}, (
        done.stdout + done.stderr + said
    )
    assert logged
    with (out / "bench.csv").open() as file:
        assert "dit_debug" in file.read()
    assert done.returncode == 1  # a stage failed, and the others' results are there
    assert "there is no preset 'nonsense'" in said
    if scored:
        with (out / "metrics.csv").open() as file:
            assert {row["views"] for row in csv.DictReader(file)} == {"seen", "novel"}
    assert 4 + scored <= len(list(out.iterdir())) <= 8
    assert all(path.is_file() and path.stat().st_size <= 16 * 2**20 for path in out.iterdir())
    shards = sorted(map(str, out.glob("model-*-of-*.safetensors")))
    assert main(["checkpoint", "join", *shards, "--out", str(tmp_path / "joined")]) == 0
    assert load_generator(tmp_path / "joined").config.name == "dit"


@pytest.fixture(scope="module")
def unpacked(archive: Path) -> Path:
    with tarfile.open(archive) as packed:
        packed.extractall(archive.parent / "unpacked", filter="data")
    return archive.parent / "unpacked"


@pytest.mark.parametrize(
    ("change", "options", "error"),
    [
        ("", ["--seconds", "1.5"], "--seconds is '1.5', expected a whole number"),
        ("", ["--steps", "3"], "there is no option --steps"),
        ("", ["--preset", "nonsense"], "there is no preset 'nonsense'"),
        ("echo x >>commit", [], "was changed after it was packed; copy it again"),
        ("echo 2.7 >python; sha256sum python >SHA256SUMS", [], "but the packages are for 2.7"),
        ("rm SHA256SUMS", [], "is no bundle of scripts/bundle.sh"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_begins(
    unpacked: Path, node: Path, tmp_path: Path, change: str, options: list[str], error: str
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for part in unpacked.iterdir():
        if part.is_dir():
            (folder / part.name).symlink_to(part)
        else:
            shutil.copy(part, folder)
    subprocess.run(["bash", "-c", change], cwd=folder, check=True)
    defaults = [
        "--preset",
        "dit_debug",
        "--seconds",
        "2",
        "--out",
        str(tmp_path / "out"),
        "--work",
        str(tmp_path / "w"),
    ]
    done = _run(SESSION, folder, *defaults, *options, PYTHON=node)
    assert done.returncode == 2
    assert error in done.stderr
    assert not (tmp_path / "out" / "stages.csv").exists()


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    for arguments, error in (
        ([], "expected OUT.tar.xz [DATA]"),
        (["x", tmp_path], "is no dataset; make one with 'geo4d-bench datagen --views none'"),
        (["x", "--pyton", "3.12"], "there is no option --pyton"),
    ):
        done = _run(SCRIPTS / "bundle.sh", *arguments)
        assert done.returncode == 2
        assert error in done.stderr
