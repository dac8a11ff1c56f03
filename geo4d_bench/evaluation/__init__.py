"""Metrics of generated 4D video, distances of sets of videos, intervals over episodes, and
statistics of success rates."""

from geo4d_bench.evaluation.bootstrap import Mean, cluster_mean
from geo4d_bench.evaluation.frechet import frechet_distance, frechet_interval, pair_distance
from geo4d_bench.evaluation.metrics import (
    DepthScore,
    cross_view_miou,
    depth_score,
    depth_score_paper_compat,
    psnr_db,
    seen_by_both,
    splat,
    ssim,
    view_gap_m,
)
from geo4d_bench.evaluation.statistics import compact_letters, mcnemar_exact, significance_groups, wilson

__all__ = [
    "DepthScore",
    "Mean",
    "cluster_mean",
    "compact_letters",
    "cross_view_miou",
    "depth_score",
    "depth_score_paper_compat",
    "frechet_distance",
    "frechet_interval",
    "mcnemar_exact",
    "pair_distance",
    "psnr_db",
    "seen_by_both",
    "significance_groups",
    "splat",
    "ssim",
    "view_gap_m",
    "wilson",
]
