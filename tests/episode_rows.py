"""Ledgers of made-up episodes, for tests of several packages."""

import dataclasses
from pathlib import Path

from geo4d_bench.rollout.ledger import EpisodeRow, Ledger


def ledger(folder: Path, policy: str, successes: int, n: int = 20, first: int = 1000, **changes: object) -> Path:
    """A run of n episodes, the first of which succeed: its folder."""
    for seed in range(first, first + n):
        success = seed - first < successes
        row = EpisodeRow(
            run_id=policy.ljust(16, "0"), settings=policy.ljust(16, "1"), rig="hemisphere16", task="store_cereal",
            task_version="v1", policy=policy, generator="", ablation="none",
            checkpoint="",
            views="novel", camera_n="cam03", camera_m="cam07", view_angle_deg=20.0,
            sensor="perfect", tracker="", segmenter="", steps=0,
            split="eval", seed=seed, episode=seed - first, status="success" if success else "timeout", success=success,
            phase="task", plans=9, control_steps=240, wall_s=1.5, generate_ms=0.0, track_ms=0.0,
            privileged=policy == "expert", fingerprint="f" * 16, commit="abc",
        )  # fmt: skip
        Ledger(folder / policy / "episodes.csv").append(dataclasses.replace(row, **changes))
    return folder / policy
