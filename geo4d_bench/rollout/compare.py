"""``geo4d-bench leaderboard compare A B``: the difference of two policies, what it is worth, and whether to play on.

The unit is the episode where two checkpoints are compared, and the training seed where either side has several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from geo4d_bench.errors import LedgerError
from geo4d_bench.evaluation import statistics
from geo4d_bench.evaluation.statistics import Mean
from geo4d_bench.rollout import leaderboard, trainings
from geo4d_bench.rollout.ledger import EpisodeRow

ALPHA = 0.05


@dataclass(frozen=True)
class CompareConfig:
    a: Positional[str]
    """Rollout folder or episodes.csv, or the name of a policy, or the first digits of a checkpoint."""
    b: Positional[str]
    """What A is compared with. Several checkpoints on a side are taken for training seeds of one method."""
    runs: Path = Path("runs")
    """Folder in which policies and checkpoints are looked for."""
    sequential: bool = False
    """Also test in a way that may be looked at after every episode, and say whether more have to be played."""


@dataclass(frozen=True)
class Comparison:
    """A and B on equal terms.

    Attributes:
        terms: what both were played on.
        k, n: successes and episodes of A and of B that were compared.
        checkpoints: those of each of them.
        difference: A's success rate minus B's, with its 95 % interval.  interval: what the interval is.
        p, test: and the test that it is of.  p_holm: corrected for all comparisons made at once.
        notes: what a reader must know.
    """

    terms: str
    k: tuple[int, int]
    n: tuple[int, int]
    checkpoints: tuple[tuple[str, ...], tuple[str, ...]]
    difference: Mean
    interval: str
    p: float
    test: str
    notes: tuple[str, ...]
    p_holm: float = 1.0

    def lines(self, several: bool) -> list[str]:
        """The comparison as text."""
        rates = [
            f"{name} {k} of {n} ({k / n:.2f}, {f'{len(c)} training seeds' if len(c) > 1 else c[0][:8]})".replace(
                ", )", ")"
            )
            for name, k, n, c in zip("AB", self.k, self.n, self.checkpoints, strict=True)
        ]
        low, high = self.difference[1:]
        interval = "no interval" if np.isnan(low) else f"95 % interval {low:+.3f} to {high:+.3f} ({self.interval})"
        holm = f", {self.p_holm:.2g} after Holm's correction" if several else ""
        return [
            f"{self.terms}: {rates[0]}, {rates[1]}",
            f"  A - B = {self.difference.value:+.3f}, {interval}; p = {self.p:.2g} ({self.test}){holm}",
            *(f"  {note}" for note in self.notes),
        ]


@dataclass(frozen=True)
class Compared:
    """The comparisons of two policies, one for each choice of task and views that both were played on."""

    names: tuple[str, str]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        several = len(self.comparisons) > 1
        lines = [line for each in self.comparisons for line in each.lines(several)]
        return "\n".join([f"A: {self.names[0]}", f"B: {self.names[1]}", *lines, *self.notes])


Side = dict[tuple[str, ...], dict[str, dict[int, EpisodeRow]]]
"""Of A or B: rows by terms, checkpoint and seed."""


def run(config: CompareConfig) -> Compared:
    """Compare; LedgerError where a side has no episodes, several policies, crashes, or nothing in common with the
    other."""
    found = [_rows(given, config.runs) for given in (config.a, config.b)]
    sides = [_side(given, rows) for given, rows in zip((config.a, config.b), found, strict=True)]
    names = [_name(given, rows) for given, rows in zip((config.a, config.b), found, strict=True)]
    if shared := len(found[0].keys() & found[1].keys()):
        raise LedgerError(
            f"A ({config.a}) and B ({config.b}) have {shared} episodes in common; name two runs that share none"
        )
    pairs, notes = _pairs(sides[0], sides[1], (config.a, config.b))
    notes += _method_notes(pairs, found, config.runs)
    codes = {row.fingerprint for rows in found for row in rows}
    if len(codes) > 1:
        notes.append(f"the episodes are of different code or packages: fingerprints {', '.join(sorted(codes))}")
    alpha = ALPHA / len(pairs)
    made = [_compare(terms, a, b, config.sequential, alpha) for terms, a, b in pairs]
    from statsmodels.stats.multitest import multipletests

    corrected = multipletests([each.p for each in made], method="holm")[1]
    made = [replace(each, p_holm=float(p)) for each, p in zip(made, corrected, strict=True)]
    return Compared((names[0], names[1]), tuple(made), tuple(notes))


def _rows(given: str, runs: Path) -> dict[EpisodeRow, Path]:
    """The rows that an argument names."""
    path = Path(given)
    if path.exists():
        rows = leaderboard.read_all(leaderboard.files_like_ledgers(path))
        if not rows:
            raise LedgerError(f"{path}: no episodes.csv with an episode in it; 'geo4d-bench rollout' writes one")
        return rows
    everything = leaderboard.read_all(leaderboard.files_like_ledgers(runs))
    rows = {row: path for row, path in everything.items() if given in (row.policy, row.title)}
    if not rows and len(given) >= 6:
        rows = {row: path for row, path in everything.items() if row.checkpoint.startswith(given)}
    if not rows:
        there = ", ".join(sorted({row.title for row in everything})) or "no rollouts"
        raise LedgerError(
            f"'{given}' is neither a file or folder nor a policy or checkpoint of a rollout below {runs} "
            f"(there: {there}); name one of them, or another --runs"
        )
    exact = {row: path for row, path in rows.items() if row.title == given}
    return exact or rows


def _side(given: str, rows: Mapping[EpisodeRow, Path]) -> Side:
    kinds = sorted({f"{row.title}, {row.sensor} depth" + f", {row.steps} steps" * (row.steps > 0) for row in rows})
    if len(kinds) > 1:
        raise LedgerError(f"'{given}' holds episodes of {' and of '.join(kinds)}; name the folder of one of them")
    if crashed := sorted(row.seed for row in rows if row.status == "crash"):
        raise LedgerError(
            f"'{given}' has {len(crashed)} crashed episodes (seed {', '.join(map(str, crashed[:5]))}); mend the cause "
            "and run the same rollout again"
        )
    side: Side = {}
    options: dict[tuple[str, ...], EpisodeRow] = {}
    for row, path in rows.items():
        terms = leaderboard.comparable(row)
        seeds = side.setdefault(terms, {}).setdefault(row.checkpoint, {})
        first = options.setdefault((*terms, row.checkpoint), row)
        if first.settings != row.settings:
            raise LedgerError(
                f"'{given}' holds episodes of one checkpoint that were played with other options or by other code, in "
                f"{rows[first]} and {path}; name the folder of one of them"
            )
        other = seeds.setdefault(row.seed, row)
        if other is not row:
            raise LedgerError(
                f"'{given}' has seed {row.seed} of one checkpoint twice, in {rows[other]} and {path}; "
                "name the folder of one of them"
            )
    return side


def _name(given: str, rows: Mapping[EpisodeRow, Path]) -> str:
    row = next(iter(rows))
    checkpoints = sorted({r.checkpoint[:8] for r in rows if r.checkpoint})
    which = f" ({', '.join(checkpoints)})" if checkpoints else ""
    return f"{row.title}{which}, {given}"


Checkpoints = dict[str, dict[int, bool]]
"""Success by checkpoint and episode's seed."""
Pair = tuple[str, Checkpoints, Checkpoints]


def _pairs(a: Side, b: Side, given: tuple[str, str]) -> tuple[list[Pair], list[str]]:
    """What is compared with what, and notes on what is not."""
    common = sorted(a.keys() & b.keys())
    notes = [
        f"left out, as only {name} was played there: {_words(terms)}"
        for name, side, other in (("A", a, b), ("B", b, a))
        for terms in sorted(side.keys() - other.keys())
    ]
    if common:
        return [(_words(terms), _outcomes(a[terms]), _outcomes(b[terms])) for terms in common], notes
    (terms_a, *more_a), (terms_b, *more_b) = a, b
    if more_a or more_b or terms_a[:3] != terms_b[:3]:
        raise LedgerError(
            f"A ({given[0]}) was played on {'; '.join(map(_words, sorted(a)))} and B ({given[1]}) on "
            f"{'; '.join(map(_words, sorted(b)))}: expected one task and version in common; play one as the other"
        )
    note = f"A was played on {_words(terms_a)}, B on {_words(terms_b)}: equal seeds are equal starts of the scene"
    return [(" against ".join(map(_words, (terms_a, terms_b))), _outcomes(a[terms_a]), _outcomes(b[terms_b]))], [note]


def _words(terms: tuple[str, ...]) -> str:
    task, version, _, views, rig, *more = terms
    return ", ".join(filter(None, [f"{task}-{version}", f"{views} views", rig, *more]))


def _outcomes(checkpoints: Mapping[str, Mapping[int, EpisodeRow]]) -> Checkpoints:
    return {
        name: {seed: row.success for seed, row in sorted(rows.items())} for name, rows in sorted(checkpoints.items())
    }


def _method_notes(pairs: Sequence[Pair], found: Sequence[Mapping[EpisodeRow, Path]], runs: Path) -> list[str]:
    notes: dict[str, None] = {}
    for name, sides, rows in zip("AB", zip(*(pair[1:] for pair in pairs), strict=True), found, strict=True):
        for checkpoints in sides:
            if len(checkpoints) > 1:
                known = trainings.find({runs, *trainings.folders_of(rows, rows)})
                if why := trainings.doubt(checkpoints, known):
                    notes[f"{name}'s checkpoints are taken for training seeds of one method, but {why}"] = None
    return list(notes)


def _compare(terms: str, a: Checkpoints, b: Checkpoints, sequential: bool, alpha: float) -> Comparison:
    if len(a) > 1 or len(b) > 1:
        return _compare_methods(terms, a, b, sequential)
    checkpoints = (tuple(a), tuple(b))
    (of_a,), (of_b,) = a.values(), b.values()
    seeds = sorted(of_a.keys() & of_b.keys())
    if not seeds:
        return _compare_unpaired(terms, checkpoints, of_a, of_b, sequential)
    x, y = (np.array([side[seed] for seed in seeds]) for side in (of_a, of_b))
    only_a, only_b, n = int((x & ~y).sum()), int((~x & y).sum()), len(seeds)
    notes = [f"A alone solved {only_a} of the {n} episodes, B alone {only_b}"]
    if left := len(of_a.keys() ^ of_b.keys()):
        notes.append(f"{left} episodes whose seed only one of them has are left out")
    if sequential:
        notes += _sequential(x, y, alpha)
    return Comparison(
        terms, (int(x.sum()), int(y.sum())), (n, n), checkpoints, statistics.paired_difference(only_a, only_b, n),
        "score, paired", statistics.mcnemar_exact(x, y), f"exact McNemar on {n} equal seeds", tuple(notes),
    )  # fmt: skip


def _compare_unpaired(
    terms: str,
    checkpoints: tuple[tuple[str, ...], tuple[str, ...]],
    a: Mapping[int, bool],
    b: Mapping[int, bool],
    sequential: bool,
) -> Comparison:
    if sequential:
        raise LedgerError(
            f"{terms}: A and B have no seed in common, and --sequential needs paired episodes; play both from the same "
            "--seed"
        )
    k, n = (sum(a.values()), sum(b.values())), (len(a), len(b))
    return Comparison(
        terms, k, n, checkpoints, statistics.unpaired_difference(k, n), "Newcombe, not paired",
        statistics.fisher_exact(k, n), "Fisher's exact test, not paired",
        ("no seed in common, so nothing is paired: the same --seed for both would tell smaller differences",),
    )  # fmt: skip


def _compare_methods(terms: str, of_a: Checkpoints, of_b: Checkpoints, sequential: bool) -> Comparison:
    if sequential:
        raise LedgerError(f"{terms}: --sequential compares checkpoints by episodes; name one checkpoint a side")
    every = [*of_a.values(), *of_b.values()]
    seeds = sorted(set.intersection(*map(set, every)))
    if not seeds:
        raise LedgerError(
            f"{terms}: no seed was played by all checkpoints of A and B, and methods are compared on equal episodes; "
            "play them from the same --seed"
        )
    a, b = ([{seed: each[seed] for seed in seeds} for each in side.values()] for side in (of_a, of_b))
    k, n = ([sum(sum(each.values()) for each in side) for side in (a, b)], [sum(map(len, side)) for side in (a, b)])
    rates = [[float(np.mean(list(each.values()))) for each in side] for side in (a, b)]
    least = min(1.0, 2.0 / comb(len(a) + len(b), len(a)))
    wilson = [statistics.wilson(*each) for each in zip(k, n, strict=True)]
    over = [statistics.hierarchical_mean(side) for side in (a, b)]
    notes = [
        f"{name}: {mean.low:.2f} to {mean.high:.2f} over training seeds and episodes (hierarchical bootstrap), "
        f"{low:.2f} to {high:.2f} over episodes alone (Wilson); seeds: {', '.join(f'{r:.2f}' for r in sorted(each))}"
        for name, mean, (low, high), each in zip("AB", over, wilson, rates, strict=True)
    ]
    if left := sum(len(each.keys() - set(seeds)) for each in every):
        notes.append(f"{left} episodes whose seed not all checkpoints have are left out")
    if least > ALPHA:
        notes.append(f"{len(a)} and {len(b)} training seeds cannot reach a p below {least:.2g}; 4 and 4 can")
    return Comparison(
        terms, (k[0], k[1]), (n[0], n[1]), (tuple(of_a), tuple(of_b)), statistics.hierarchical_difference(a, b),
        "hierarchical bootstrap", statistics.training_seeds_p(*rates), "exact permutation of training seeds",
        tuple(notes),
    )  # fmt: skip


def _sequential(x: statistics.Bools, y: statistics.Bools, alpha: float) -> list[str]:
    """What a test says that may be looked at after every episode, in the order of the seeds."""
    n = len(x)
    found = statistics.evidence(np.cumsum(x & ~y), np.cumsum(x ^ y))
    interval = statistics.anytime_difference(int((x & ~y).sum()), int((~x & y).sum()), n, alpha)
    at_any_time = f"interval that holds at any time {interval.low:+.3f} to {interval.high:+.3f}"
    needed = f"{1 / alpha:.0f} decides, error rate {alpha:.2g} however often one looks"
    reached = np.flatnonzero(found >= 1.0 / alpha)
    if len(reached):
        first = int(reached[0])
        better = "A" if (x & ~y)[: first + 1].sum() > (~x & y)[: first + 1].sum() else "B"
        return [
            f"sequential: decided after {first + 1} of {n} episodes, {better} is better: stop (evidence "
            f"{found[first]:.3g}; {needed}); {at_any_time}"
        ]
    return [
        f"sequential: not decided after {n} episodes (evidence {found[-1]:.3g}; {needed}): give both rollouts more "
        f"--episodes and compare again; {at_any_time}"
    ]
