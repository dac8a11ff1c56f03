"""The diagnoses of an audit: each a table out of episode rows, with its warnings and what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.evaluation import statistics
from geo4d_bench.policies.video_policy import VideoOptions
from geo4d_bench.registry import task_name
from geo4d_bench.report.tables import markdown
from geo4d_bench.rollout import leaderboard, trainings
from geo4d_bench.rollout.leaderboard import WITHOUT_EYES
from geo4d_bench.rollout.ledger import EpisodeRow

SHORTCUT = 0.05
"""A policy that does not look should not succeed more often."""
ALPHA = 0.05
_ENOUGH = 80
"""Episodes after which no success at all excludes more than :data:`SHORTCUT` (Wilson: 73)."""

Rows = Sequence[EpisodeRow]
Terms = Callable[[EpisodeRow], tuple[str, ...]]


@dataclass
class Section:
    """A part of the page: a table, what to be warned of, and what is missing with the command that makes it."""

    title: str
    about: str
    heads: tuple[str, ...]
    rows: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)

    def markdown(self) -> str:
        """The section in Markdown."""
        parts = [f"## {self.title}", self.about]
        parts += [markdown(self.heads, self.rows)] if self.rows else ["Nothing to compare."]
        parts += ["\n".join(f"- **{warning}**" for warning in self.warnings)] if self.warnings else []
        parts += (
            ["\n".join(f"- Missing: {what}: `{command}`" for what, command in self.missing)] if self.missing else []
        )
        return "\n\n".join(parts)


def _scenes(run: Rows) -> tuple[str, ...]:
    """What decides the scenes of a run, whichever cameras look at them."""
    task, version, split, _, _, *more = leaderboard.comparable(run[0])
    return task, version, split, *more


def _name(run: Rows) -> str:
    row = run[0]
    words = [row.checkpoint[:8]] * bool(row.checkpoint) + [f"{row.sensor} depth"] * (row.sensor != "perfect")
    words += [f"{row.steps} steps"] * (row.steps > 0)
    return row.title + (f" ({', '.join(words)})" if words else "")


def _player(run: Rows) -> str:
    """The name without the room's, which its title has."""
    return _name([replace(run[0], rooms="fixed")])


def _few(names: Sequence[str]) -> str:
    more = len(names) - 3
    return "; ".join(names[:3]) + (f"; and {more} more" if more > 0 else "")


def _rate(run: Rows) -> float:
    return float(np.mean([row.success for row in run]))


def _counts(run: Rows) -> list[str]:
    k, n = sum(row.success for row in run), len(run)
    low, high = statistics.wilson(k, n)
    return [f"{k} / {n}", f"{low:.2f} to {high:.2f}"]


def _looks(run: Rows) -> bool:
    """Whether a run is of a policy that is to be judged: it looks, and is not given the truth."""
    return not run[0].privileged and run[0].policy not in (*WITHOUT_EYES, "random")


def _difference(a: Rows, b: Rows) -> tuple[statistics.Mean, float, int]:
    """Of two runs on the seeds that both have: success of a minus b with its interval, p, episodes."""
    of_b = {row.seed: row.success for row in b}
    pairs = np.array([(row.success, of_b[row.seed]) for row in a if row.seed in of_b], dtype=bool).reshape(-1, 2)
    if not len(pairs):
        return statistics.Mean(math.nan), math.nan, 0
    x, y = pairs.T
    mean = statistics.paired_difference(int((x & ~y).sum()), int((~x & y).sum()), len(x))
    return mean, statistics.mcnemar_exact(x, y), len(x)


def _cells(mean: statistics.Mean, p: float) -> list[str]:
    return [f"{mean.value:+.2f}", f"{mean.low:+.2f} to {mean.high:+.2f}", f"{p:.2g}"]


def shortcuts(runs: Sequence[Rows]) -> Section:
    section = Section(
        "Shortcuts",
        "Policies that see nothing: `blind` plays the average of the training demonstrations, `replay` one of them, "
        "`proprioception` goes on as the demonstrations did where the hand was as it is. A task on which one of them "
        f"succeeds in more than {SHORTCUT:g} of the episodes can be passed without looking.",
        ("task", "policy", "views", "successes", "95 % interval", "best that looks", "", "verdict"),
    )
    for scenes in sorted({_scenes(run) for run in runs}):
        here = [run for run in runs if _scenes(run) == scenes]
        best = max(filter(_looks, here), key=_rate, default=None)
        task = _task(scenes)
        for run in here:
            if run[0].policy not in (*WITHOUT_EYES, "random"):
                continue
            k, n = sum(row.success for row in run), len(run)
            if k / n > SHORTCUT:
                verdict = "solved without looking"
                section.warnings.append(
                    f"{task}: {run[0].policy} succeeds in {k} of {n} episodes without looking: widen where things start"
                )
            elif statistics.wilson(k, n)[1] > SHORTCUT:
                verdict = f"not excluded: play {max(_ENOUGH, 2 * n)} episodes or more"
            else:
                verdict = "excluded"
            other = [_name(best), _counts(best)[0]] if best else ["", ""]
            section.rows.append([task, _name(run), run[0].views, *_counts(run), *other, verdict])
        there = {run[0].policy for run in here}
        rooms = _rooms_option(here[0][0].rooms)
        section.missing += [
            (
                f"{policy} on {task}",
                f"geo4d-bench rollout --task {task_name(*scenes[:2])} --policy {policy}{rooms} --episodes {_ENOUGH}",
            )
            for policy in WITHOUT_EYES
            if policy not in there
        ]
    return section


def _task(scenes: Sequence[str]) -> str:
    task, version, _, *more = scenes
    return ", ".join([f"{task}-{version}", *more])


def differences(runs: Sequence[Rows]) -> Section:
    from statsmodels.stats.multitest import multipletests

    section = Section(
        "Differences",
        "The best policy of every board against each of the others, on equal seeds: exact McNemar, Holm's correction "
        "over all pairs of the board, because the best was chosen by its rate. Oracles and policies that see nothing "
        "are left out.",
        ("board", "best", "against", "episodes", "difference", "95 % interval", "p", "p, Holm"),
    )
    boards: dict[tuple[str, ...], list[Rows]] = {}
    for run in filter(_looks, runs):
        boards.setdefault(leaderboard.comparable(run[0]), []).append(run)
    bests: list[bool] = []
    for terms, rivals in boards.items():
        best, *others = sorted(rivals, key=lambda run: (-_rate(run), _name(run)))
        if not others:
            continue
        board = ", ".join(filter(None, [f"{terms[0]}-{terms[1]}", *terms[3:]]))
        every = [(other, *_difference(best, other)) for other in others]
        found = [each for each in every if each[3]]
        open_ones = [f"{_name(other)} (no seed in common)" for other, *_, n in every if not n]
        among_others = (_difference(a, b) for a, b in combinations(others, 2))
        p_values = [p for _, _, p, _ in found] + [p for _, p, n in among_others if n]
        corrected = multipletests(p_values, method="holm")[1][: len(found)] if found else ()
        for (other, mean, p, n), holm in zip(found, corrected, strict=True):
            section.rows.append([board, _name(best), _name(other), str(n), *_cells(mean, p), f"{holm:.2g}"])
            open_ones += [_name(other)] if holm > ALPHA or mean.value <= 0 else []
        if open_ones:
            section.warnings.append(
                f"{board}: {_name(best)} is best by its rate, but not shown to be better than {_few(open_ones)}"
            )
        bests.append(not open_ones)
    section.about += f" {sum(bests)} of {len(bests)} bests are shown to be better than all others."
    checkpoints: dict[str, set[str]] = {}
    for run in filter(_looks, runs):
        if run[0].checkpoint:
            checkpoints.setdefault(f"{run[0].title} on {_task(_scenes(run))}", set()).add(run[0].checkpoint)
    if single := sorted(name for name, found in checkpoints.items() if len(found) == 1):
        section.warnings.append(
            f"one checkpoint only, so that nothing is shown of the method, whatever the episodes: {_few(single)}"
        )
    return section


def seeds(runs: Sequence[Rows]) -> Section:
    section = Section(
        "Overfitting of seeds",
        "A checkpoint on the seeds from the lowest number on against others: Fisher's exact test, not paired, not "
        "corrected for the number of checkpoints.",
        ("board", "policy", "seeds from", "successes", "others from", "successes", "difference", "95 % interval", "p"),
    )
    alone: list[Rows] = []
    for terms, of_one in _by_checkpoint(runs, lambda row: (*leaderboard.comparable(row), row.settings)).items():
        by_start: dict[int, dict[int, bool]] = {}
        for row in (row for run in of_one for row in run):
            by_start.setdefault(row.seed - row.episode, {})[row.seed] = row.success
        board, name = ", ".join(filter(None, [f"{terms[0]}-{terms[1]}", *terms[3:-3]])), _name(of_one[0])
        first, *others = sorted(by_start)
        if not others:
            alone.append(of_one[0])
            continue
        mine = by_start[first]
        rest = {seed: done for start in others for seed, done in by_start[start].items() if seed not in mine}
        if not rest:
            continue
        k, n = (sum(mine.values()), sum(rest.values())), (len(mine), len(rest))
        mean, p = statistics.unpaired_difference(k, n), statistics.fisher_exact(k, n)
        counts = [f"{a} / {b}" for a, b in zip(k, n, strict=True)]
        starts = ", ".join(map(str, others))
        section.rows.append([board, name, str(first), counts[0], starts, counts[1], *_cells(mean, p)])
        if p <= ALPHA and mean.value > 0:
            section.warnings.append(f"{board}: {name} does better on seeds from {first} than on others (p = {p:.2g})")
    section.missing += _missing(
        alone, "with other seeds", lambda run: _again(run, seed=run[0].seed - run[0].episode + 4000)
    )
    return section


def cameras(runs: Sequence[Rows]) -> Section:
    section = Section(
        "Overfitting of cameras",
        "A checkpoint from the seen cameras of its rows' rig against others, on equal starts of the scene: exact "
        "McNemar, not corrected for the number of checkpoints. The section on data says whether it was trained on it.",
        ("task", "policy", "views", "seen", "others", "episodes", "seen - others", "95 % interval", "p"),
    )
    alone: list[Rows] = []
    for of_one in _by_checkpoint(runs, lambda row: (*_scenes([row]), row.rig)).values():
        by_views = _by(of_one, lambda row: row.views)
        where = [_task(_scenes(of_one[0])), _name(of_one[0])]
        if not _compare_with(section, where, by_views, "seen", "from seen to {} views"):
            alone.append(list(max(by_views.values(), key=len).values()))
    section.missing += _missing(
        alone, "from other views", lambda run: _again(run, views="novel" if run[0].views == "seen" else "seen")
    )
    return section


def rooms(runs: Sequence[Rows]) -> Section:
    section = Section(
        "Overfitting of the room",
        "A checkpoint in the fixed room against drawn ones, on equal starts of the scene and equal cameras: exact "
        "McNemar, not corrected for the number of checkpoints. The section on data says in which rooms it was trained.",
        ("task", "policy", "rooms", "fixed", "others", "episodes", "fixed - others", "95 % interval", "p"),
    )
    alone: list[Rows] = []
    for of_one in _by_checkpoint(runs, lambda row: leaderboard.comparable(replace(row, rooms=""))).values():
        row, by_rooms = of_one[0][0], _by(of_one, lambda row: row.rooms)
        where = [f"{row.task}-{row.task_version}, {row.views}", _player(of_one[0])]
        if (
            not _compare_with(section, where, by_rooms, "fixed", "from the fixed room to {} ones")
            and "fixed" in by_rooms
        ):
            alone.append(list(by_rooms["fixed"].values()))
    section.missing += _missing(alone, "in held_out rooms", lambda run: _again(run, rooms="held_out"))
    return section


def _compare_with(
    section: Section, where: Sequence[str], runs: Mapping[str, Mapping[int, EpisodeRow]], base: str, change: str
) -> bool:
    """Add a row for each condition of one checkpoint that has seeds in common with ``base``, whose rows come first, and
    a warning where it does worse; whether there is any."""
    first, found = runs.get(base, {}), False
    for name, others in sorted(runs.items()):
        common = sorted(first.keys() & others.keys())
        if name == base or not common:
            continue
        pair = [first[seed] for seed in common], [others[seed] for seed in common]
        mean, p, n = _difference(*pair)
        section.rows.append([*where, name, *(_counts(run)[0] for run in pair), str(n), *_cells(mean, p)])
        if p <= ALPHA and mean.value > 0:
            task, policy = where
            section.warnings.append(f"{task}: {policy} loses {mean.value:.2f} {change.format(name)} (p = {p:.2g})")
        found = True
    return found


def _by(runs: Sequence[Rows], term: Callable[[EpisodeRow], str]) -> dict[str, dict[int, EpisodeRow]]:
    """The rows of each seed, by what differs; of runs with other options those with the most episodes alone."""
    by_settings: dict[str, dict[str, dict[int, EpisodeRow]]] = {}
    for row in (row for run in runs for row in run):
        by_settings.setdefault(term(row), {}).setdefault(row.settings, {})[row.seed] = row
    return {name: max(each.values(), key=len) for name, each in by_settings.items()}


def _missing(alone: Sequence[Rows], what: str, command: Callable[[Rows], str]) -> list[tuple[str, str]]:
    """What lacks for runs of checkpoints: of each task and choice of views the best run, and how many more."""
    by_board: dict[tuple[str, ...], list[Rows]] = {}
    for run in alone:
        if run[0].checkpoint:
            by_board.setdefault(leaderboard.comparable(run[0]), []).append(run)
    found = []
    for terms, lacking in by_board.items():
        best = max(lacking, key=_rate)
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        found.append((f"{_name(best)}{more}, {terms[0]}-{terms[1]}, {terms[3]} views, {what}", command(best)))
    return found


def _rooms_option(rooms: str) -> str:
    return "" if rooms == "fixed" else f" --rooms {rooms}"


def _again(run: Rows, *, seed: int | None = None, views: str = "", rooms: str = "") -> str:
    """The command that plays a run again under another condition; what rows do not say (``--execute``, ``--weight``)
    has to be added."""
    row = run[0]
    first = row.seed - row.episode if seed is None else seed
    options = {
        "--sensor": row.sensor if row.sensor != "perfect" else "",
        "--steps": row.steps or "",
        "--tracker": row.tracker if row.tracker != VideoOptions.tracker else "",
        "--segmenter": row.segmenter,
        "--calibration-deg": f"{row.calibration_deg:g}" if row.calibration_deg else "",
        "--calibration-cm": f"{row.calibration_cm:g}" if row.calibration_cm else "",
        "--realtime": f"{row.latency_s:g}" if row.latency_s else "",
    }
    return (
        f"geo4d-bench rollout --task {task_name(row.task, row.task_version)} --policy {row.policy} "
        f"--views {views or row.views} --rig {row.rig}{_rooms_option(rooms or row.rooms)} "
        f"--seed {first} --episodes {len(run)}"
        + "".join(f" {name} {value}" for name, value in options.items() if value)
        + " --checkpoint FOLDER --out FOLDER"
    )


def _by_checkpoint(runs: Sequence[Rows], terms: Terms) -> dict[tuple[str, ...], list[Rows]]:
    """The runs of policies that look, by terms and what plays, whatever the room."""
    found: dict[tuple[str, ...], list[Rows]] = {}
    for run in filter(_looks, runs):
        found.setdefault((*terms(run[0]), _player(run), run[0].checkpoint), []).append(run)
    return found


def data(runs: Sequence[Rows], known: Mapping[str, trainings.Training], datasets: Mapping[str, Dataset]) -> Section:
    section = Section(
        "Data",
        "What checkpoints were made of. Episodes of the splits `train` and `eval` start differently also where their "
        "seeds are equal numbers.",
        (
            "task",
            "policy",
            "training seed",
            "dataset",
            "demonstrations",
            "rig",
            "rooms",
            "depth",
            "split, first seed",
            "eval episodes in it",
        ),
    )
    unknown = set()
    for key, of_one in _by_any_checkpoint(runs).items():
        row, name, task = of_one[0][0], _name(of_one[0]), _task(_scenes(of_one[0]))
        training = known.get(key[-1])
        dataset = datasets.get(str(training.settings["data_sha256"]) if training else key[-1])
        if dataset is None:
            unknown.add(f"{name} on {task}" if training is None else f"{name} on {task}, no dataset below --data")
            continue
        made = dataset.manifest.settings
        seeds = {entry.seed for entry in dataset.manifest.episodes}
        played = {(r.split, r.seed) for run in of_one for r in run}
        common = sum(split == made.split and seed in seeds for split, seed in played)
        section.rows.append(
            [
                task, name, str(training.settings.get("seed", "")) if training else "", str(dataset.path),
                str(len(seeds)), made.rig.name, made.rooms,
                str(training.settings.get("sensor", "")) if training else "", f"{made.split}, {made.seed}", str(common),
            ]
        )  # fmt: skip
        if common:
            section.warnings.append(f"{task}: {name} was trained on {common} of the episodes that it is judged by")
        if (made.task, made.version) != (row.task, row.task_version):
            section.warnings.append(f"{task}: {name} was trained on {made.task}-{made.version}")
        if rigs := sorted({run[0].rig for run in of_one if run[0].policy not in WITHOUT_EYES} - {made.rig.name}):
            section.warnings.append(
                f"{task}: {name} was trained on the rig {made.rig.name}, and 'seen' and 'novel' of its rows are of "
                f"{', '.join(rigs)}"
            )
    if unknown:
        section.warnings.append(f"origin unknown, no training or dataset is there: {_few(sorted(unknown))}")
    return section


def _by_any_checkpoint(runs: Sequence[Rows]) -> dict[tuple[str, ...], list[Rows]]:
    found: dict[tuple[str, ...], list[Rows]] = {}
    for run in runs:
        if run[0].checkpoint:
            found.setdefault((*_scenes(run), run[0].title, run[0].checkpoint), []).append(run)
    return found
