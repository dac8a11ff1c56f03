"""Tables of a page follow from the files that it names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from geo4d_bench.errors import ConfigError
from geo4d_bench.report.tables import TablesConfig, run

ROOT = Path(__file__).resolve().parents[2]


def test_pages_say_what_the_results_say() -> None:
    written = [ROOT / "README.md", ROOT / "BENCHMARK.md", *(ROOT / "docs").rglob("*.md")]
    pages = tuple(page for page in written if "<!-- end -->" in page.read_text())
    tables = run(TablesConfig(pages, check=True))
    assert sum(tables.counts.values()) >= 20
    assert not tables.stale, str(tables)


def test_a_table_is_made_again_and_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    folder = ROOT / "results" / "store_cereal-v1" / "ablations"
    for name in ("metrics_layered.csv", "rollout_layered_novel.csv"):
        shutil.copy(folder / name, tmp_path / name)
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- success\n| rollout_*.csv\n-->\nold\n<!-- end -->\nbetween\n"
        "<!-- metrics novel generated: gripper_cm miou\nours | metrics_layered.csv | rollout_layered_novel.csv\n-->\n"
        "<!-- end -->\n<!-- grid seen | novel\nours | rollout_layered_novel.csv | rollout_layered_novel.csv\n-->\n"
        "<!-- end -->\nafter\n"
    )
    assert run(TablesConfig((page,), check=True)).exit_code == 1
    assert "old" in page.read_text()
    assert run(TablesConfig((page,))).exit_code == 0
    text = page.read_text()
    assert "| `store_cereal`, `layered` | 39 / 50 | 0.65 to 0.87 | reached 5, start 3, inserted 2, grasped 1 |" in text
    assert "|  | seen | novel |" in text
    assert "| ours | 39 / 50 (0.65 to 0.87) | 39 / 50 (0.65 to 0.87) |" in text
    assert "| ours | 0.74 cm (0.55 to 0.93) | 0.45 (0.40 to 0.49) | 39 / 50 | 0.65 to 0.87 |" in text
    assert [text.splitlines()[i] for i in (0, -1)] == ["before", "after"]
    assert not run(TablesConfig((page,), check=True)).stale
    page.write_text(text.replace("metrics_layered.csv", "metrics_gone.csv"))
    with pytest.raises(ConfigError, match=r"metrics_gone\.csv is not there"):
        run(TablesConfig((page,)))
    page.write_text("<!-- grid seen | novel\nours | rollout_layered_novel.csv\n-->\n<!-- end -->\n")
    with pytest.raises(ConfigError, match="the grid's line ours does not name 2 ledgers"):
        run(TablesConfig((page,)))
