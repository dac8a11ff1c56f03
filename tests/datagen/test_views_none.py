"""Datasets without images: simulated here, drawn elsewhere, equal to those that were drawn at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from episode_contents import assert_same_contents

from geo4d_bench.cli import main
from geo4d_bench.datagen import redraw, render, verify
from geo4d_bench.datagen.job import make_dataset
from geo4d_bench.datagen.redraw import RenderConfig
from geo4d_bench.datagen.verify import VerifyConfig
from geo4d_bench.dataset.manifest import read_manifest
from geo4d_bench.errors import DatasetError

EPISODE = Path("episodes", "ep_000000.hdf5")


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Any) -> Path:
    """The eval dataset of the other tests without its images."""
    folder = tmp_path_factory.mktemp("stripped") / "d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redraw, "require_opengl", pytest.fail)
        patch.setattr(render, "Renderer", pytest.fail)
        result = redraw.run(RenderConfig(tiny_dataset.eval, folder, views="none"))
    assert "no images" in str(result)
    assert f"geo4d-bench render {folder} --out" in str(result)
    return folder


def test_what_datagen_makes_without_images_or_opengl_is_a_dataset_stripped_of_them(
    tmp_path: Path, tiny_dataset: Any, stripped: Path
) -> None:
    settings = dataclasses.replace(read_manifest(tiny_dataset.eval).settings, views="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geo4d_bench.datagen.job.require_opengl", pytest.fail)
        patch.setattr("geo4d_bench.rendering.renderer.Renderer", pytest.fail)
        made = make_dataset(tmp_path / "d", settings, 1).folder
    assert (made / EPISODE).read_bytes() == (stripped / EPISODE).read_bytes()
    assert (made / EPISODE).stat().st_size < 0.4 * (tiny_dataset.eval / EPISODE).stat().st_size
    assert verify.run(VerifyConfig(made)).faults == ()
    with pytest.raises(DatasetError, match="views none there, all asked for"):
        make_dataset(made, dataclasses.replace(settings, views="all"), 1)


def test_images_drawn_later_are_those_of_one_go(tmp_path: Path, tiny_dataset: Any, stripped: Path) -> None:
    drawn = redraw.run(RenderConfig(stripped, tmp_path / "d")).folder
    assert_same_contents(drawn / EPISODE, tiny_dataset.eval / EPISODE)
    assert verify.run(VerifyConfig(drawn)).faults == ()


@pytest.mark.parametrize("command", ["train", "evaluate", "export", "inspect", "inspect episode"])
def test_what_needs_images_says_how_to_draw_them(
    command: str, stripped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {
        "train": ["train", "--data", str(stripped)],
        "evaluate": ["evaluate", "--data", str(stripped), "--checkpoint", str(tmp_path)],
        "export": ["export", str(stripped), "--to", "robomimic", "--out", str(tmp_path / "x")],
        "inspect": ["inspect", str(stripped)],
        "inspect episode": ["inspect", str(stripped / EPISODE)],
    }
    assert main(arguments[command]) == 2
    assert "has no images, only what was simulated; 'geo4d-bench render" in capsys.readouterr().err


def test_a_file_without_views_passes_for_one_with_them_nowhere(
    tmp_path: Path, tiny_dataset: Any, stripped: Path
) -> None:
    """A file with images among those without, and the other way round, by manifests that were changed."""
    for source, views, fault in (
        (stripped, "all", "views/cam00 is missing"),
        (tiny_dataset.eval, "none", "has cameras that the rig lacks: cam00"),
    ):
        folder = tmp_path / views
        folder.mkdir()
        for part in source.iterdir():
            (folder / part.name).symlink_to(part)
        manifest = json.loads((source / "manifest.json").read_text())
        manifest["settings"]["views"] = views
        (folder / "manifest.json").unlink()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        faults = [fault for _, fault in verify.run(VerifyConfig(folder)).faults]
        assert any(fault in found for found in faults), faults
