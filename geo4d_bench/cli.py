"""The command line: one table of commands, each a frozen dataclass and a ``run(config)`` somewhere below.

Only the chosen command's module is imported, so that ``--help`` answers at once. Exit codes: 0 done, 1 a check failed,
2 wrong arguments or input (one sentence on stderr), 130 interrupted by Ctrl-C or ``kill``, 141 nobody reads what is
printed (``| head``).
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from geo4d_bench import __version__, process
from geo4d_bench.errors import FULL, Geo4DError, UnknownNameError
from geo4d_bench.registry import unknown_name


@dataclass(frozen=True)
class Entry:
    """Where a command is: ``module`` has the dataclass ``config`` and the function ``run``. The same command again goes
    on where one that ``resumes`` was interrupted."""

    module: str
    config: str
    help: str
    resumes: bool = False


COMMANDS = {
    "doctor": Entry("doctor", "DoctorConfig", "check that this machine can render, simulate and train"),
    "tasks": Entry("report.listing", "TasksConfig", "list the tasks and camera rigs, or draw them (--preview)"),
    "datagen": Entry("datagen.job", "DatagenConfig", "collect demonstrations and render them from a camera rig", True),
    "inspect": Entry("report.inspection", "InspectConfig", "print, draw and film what a dataset or an episode holds"),
    "render": Entry("datagen.redraw", "RenderConfig", "draw a stored dataset from another rig or size", True),
    "verify": Entry(
        "datagen.verify", "VerifyConfig", "check a dataset (exit 0 when whole, 1 with one line per fault); repair"
    ),
    "export": Entry("dataset.export", "ExportConfig", "write a dataset for robomimic or LeRobot"),
    "train": Entry("training.train", "TrainConfig", "train the generator", True),
    "segmenter": Entry(
        "trackers.segmenter", "SegmenterConfig", "train what labels grippers in videos that carry no labels"
    ),
    "generate": Entry("evaluation.generate", "GenerateConfig", "generate held-out windows as films and point clouds"),
    "conditions": Entry(
        "evaluation.conditions", "ConditionsConfig", "write held-out windows' first frames for any generator"
    ),
    "evaluate": Entry(
        "evaluation.evaluate", "EvaluateConfig", "score generated video on held-out demonstrations", True
    ),
    "rollout": Entry("rollout.rollout", "RolloutConfig", "run a policy from seen or novel views", True),
    "leaderboard": Entry("rollout.leaderboard", "LeaderboardConfig", "rank runs from their episode rows"),
    "leaderboard compare": Entry("rollout.compare", "CompareConfig", "tell two policies apart, also while they play"),
    "leaderboard plan": Entry(
        "rollout.plan", "PlanConfig", "say how many episodes and training seeds a difference takes"
    ),
    "leaderboard verify": Entry(
        "rollout.board_check", "BoardCheckConfig", "check boards against their episodes, to the digit"
    ),
    "error-budget": Entry(
        "report.error_budget",
        "RolloutConfig",
        "play a rollout's lost episodes with one true stage each: which to blame",
        True,
    ),
    "audit": Entry("report.audit", "AuditConfig", "say what results do not show: shortcuts, chance, overfitting"),
    "curves": Entry(
        "report.curves", "CurvesConfig", "draw response curves: success and errors against cameras and disturbances"
    ),
    "report": Entry("report.report", "ReportConfig", "gather results and pictures on one page"),
    "tables": Entry("report.tables", "TablesConfig", "make a Markdown page's tables from the CSV files that it names"),
    "rig import": Entry("tasks.rig_import", "RigImportConfig", "make a rig's file of calibration files"),
    "checkpoint split": Entry("model.shards", "SplitConfig", "write a checkpoint as files of a limited size"),
    "checkpoint join": Entry("model.shards", "JoinConfig", "put such files together into a checkpoint"),
    "bench": Entry("bench.bench", "BenchConfig", "measure speed against references, side by side"),
}


def main(argv: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Run one command and return its exit code. With ``own_process`` it may also set what holds for the whole process,
    such as how threads wait."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if args[0] == "--version":
        print(f"geo4d-bench {__version__}")
        return 0
    # Set before anything imports mujoco: most machines that run a benchmark have no screen.
    os.environ["MUJOCO_GL"] = os.environ.get("MUJOCO_GL") or "egl"
    name = next((" ".join(args[:words]) for words in (2, 1) if " ".join(args[:words]) in COMMANDS), args[0])
    try:
        return _run(name, args[len(name.split(" ")) :], own_process)
    except BrokenPipeError:
        raise  # nobody reads what is printed any more
    except (Geo4DError, OSError) as error:
        print(f"geo4d-bench {name}: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = ": what was finished is kept; the same command goes on from there" if COMMANDS[name].resumes else ""
        print(f"\ninterrupted{kept}", file=sys.stderr)
        return 130


def _run(name: str, args: list[str], own_process: bool) -> int:
    if name not in COMMANDS:
        if longer := [command for command in COMMANDS if command.startswith(f"{name} ")]:
            raise UnknownNameError(f"there is no command '{name}'; did you mean '{longer[0]}'?")
        raise unknown_name("command", name, sorted(COMMANDS))
    entry = COMMANDS[name]
    if own_process:
        process.end_on_sigterm()
        process.find_caches()
        process.set_openmp_waits()
    import tyro

    module = importlib.import_module(f"geo4d_bench.{entry.module}")
    config_type = getattr(module, entry.config)
    config = tyro.cli(
        module.config_type(args) if hasattr(module, "config_type") else config_type,
        prog=f"geo4d-bench {name}",
        description=f"{entry.help[0].upper()}{entry.help[1:]}.",
        args=args,
    )
    if type(config) is not config_type:
        config = config_type(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config_type)})
    if own_process and name == "train" and config.threads is None:
        process.bind_openmp_threads()
    if own_process and name in ("train", "bench"):
        process.keep_freed_memory()
    result = module.run(config)
    if text := str(result):
        print(text)
    return int(getattr(result, "exit_code", 0))


def _usage() -> str:
    lines = "\n".join(f"  {name:<20} {entry.help}" for name, entry in COMMANDS.items())
    return (
        "usage: geo4d-bench COMMAND [options]\n\n"
        "Does a policy that plans by generating 4D video still work when the cameras move?\n\n"
        f"commands:\n{lines}\n\n"
        "'geo4d-bench COMMAND --help' lists the options. A first run: datagen, train, evaluate, rollout, report."
    )


def _sentence(error: Geo4DError | OSError) -> str:
    if isinstance(error, Geo4DError):
        return str(error)
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in FULL:
        return f"{FULL[error.errno]}{where}; what was finished is kept: free some space and type the same command again"
    advice = "; name a place that you may write with --out" if error.errno in (errno.EACCES, errno.EROFS) else ""
    return f"{error.strerror or error}{where}{advice}"


def console() -> None:
    """The ``geo4d-bench`` script."""
    with process.standard_streams():
        sys.exit(main(own_process=True))
