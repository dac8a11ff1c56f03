"""What a command sets for its process: memory that is kept, threads that share the processors."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from geo4d_bench import process
from geo4d_bench.pool import processes
from geo4d_bench.process import GPU

TESTS = Path(__file__).parent
COUNT_FAULTS = """
import resource, sys, torch
from geo4d_bench.process import keep_freed_memory

def step():
    torch.ones(16 << 20)  # 64 MiB

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(30):  # until the heap has a place for it
    step()
before = faults()
for _ in range(5):
    step()
print((faults() - before) * resource.getpagesize() / 2**20 / 5)
"""
LIBRARY_CALL = (
    COUNT_FAULTS.split("if sys.argv")[0]
    + f"""
import importlib.util
import os
from pathlib import Path
sys.path[:0] = [{str(TESTS / "model")!r}, {str(TESTS / "training")!r}]
def state():
    return {{k: v for k, v in os.environ.items() if "OMP_" in k}}, os.sched_getaffinity(0)
before = state()
from test_train import Made, config, run
run(config(Path(sys.argv[1]) / "run", steps=2, n_validations=1), Made())
assert state() == before
for _ in range(8):
    step()
start = faults()
for _ in range(5):
    step()
print((faults() - start) * resource.getpagesize() / 2**20 / 5)
"""
)
STEP_MIB = 64
OPENMP = """
import os, threading
ALL = len(os.sched_getaffinity(0))
from geo4d_bench import cli, process
from geo4d_bench.training import train

def processors_of_a_thread(prepare):
    found = []
    thread = threading.Thread(target=lambda: (prepare(), found.append(len(os.sched_getaffinity(0)))))
    thread.start()
    thread.join()
    return found[0]

def run(config):
    free = processors_of_a_thread(lambda: process.use_all_processors(process.allowed_processors()))
    variables = [os.environ.get(name) for name in ("GOMP_SPINCOUNT", "OMP_PROC_BIND")]
    return [*variables, len(os.sched_getaffinity(0)) < ALL, free == ALL]

train.run = run
cli.console()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told")
def test_freed_memory_is_not_asked_of_the_system_again() -> None:
    given_back, kept = (
        float(subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("default", "keep")
    )
    assert given_back > 0.9 * STEP_MIB
    assert kept < 0.1 * STEP_MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told")
def test_a_library_call_that_trains_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY_CALL, str(tmp_path)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0.9 * STEP_MIB


@pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or psutil.cpu_count(logical=False) == 1
    or len(os.sched_getaffinity(0)) == 1
    or GPU.exists(),
    reason="of Linux, with several cores and no GPU",
)
@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ([], {}, "['10000', None, True, True]"),
        (["--threads", "1"], {}, "['10000', None, False, True]"),
        ([], {"OMP_WAIT_POLICY": "PASSIVE"}, "[None, None, False, True]"),
        ([], {"LOCAL_RANK": "0"}, "['10000', None, False, True]"),
    ],
)
def test_a_training_that_is_alone_keeps_its_threads_on_cores_of_their_own(
    options: list[str], variables: dict[str, str], expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENMP, "train", *options], capture_output=True, text=True, env=environment() | variables
    )
    assert done.stdout.strip() == expected, done.stderr


def environment() -> dict[str, str]:
    """This one without what the suite says of OpenMP."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}


STREAMS = """
import sys
from pathlib import Path
from geo4d_bench import process

with process.standard_streams():
    with open(sys.argv[1], "w") as file:  # gets no number of a standard stream
        print("\\u2192 " * 20_000)
        print("words", file=sys.stderr)
    assert Path(sys.argv[1]).read_bytes() == b""
    sys.exit(7)
"""


@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        ("", 7, "words\n"),
        ("2>&-", 7, ""),
        (">&-", 7, "words\n"),
        ("<&- >&- 2>&-", 7, ""),
        ("2</dev/null", 7, ""),
        ("| true", 141, None),
        (">/dev/full", 2, "standard output: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_command_prints_wherever_its_streams_go(
    redirect: str, code: int, said: str | None, encoding: str, tmp_path: Path
) -> None:
    script = f'"$@" {redirect}; exit ${{PIPESTATUS[0]}}'
    command = ["bash", "-c", script, "-", sys.executable, "-c", STREAMS, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == code, done.stderr
    assert said is None or done.stderr.decode() == said
    if not redirect:
        assert done.stdout.decode(encoding).startswith("? " if encoding == "latin-1" else "\u2192 ")


@pytest.mark.parametrize("home", ["/proc/none", "writable"])
def test_caches_are_a_command_s_own_only_where_there_is_no_home(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TRITON_CACHE_DIR")
    for name in (*names, "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # after the test it is so again
    monkeypatch.setenv("HOME", str(tmp_path) if home == "writable" else home)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # nor can robosuite's folder be written
    process.find_caches()
    found = {os.environ.get(name) for name in names}
    if home == "writable":
        assert found == {None}
    else:
        (folder,) = map(Path, map(str, found))
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.rmdir()


def test_a_worker_that_keeps_a_model_is_not_taken_for_a_leak() -> None:
    with processes(2) as pool:
        pids = set(pool.map(_keep_400_mb, range(8)))
    assert len(pids) <= 2  # a process that is ended for what it keeps is replaced by another


_kept: list[np.ndarray] = []


def _keep_400_mb(_job: int) -> int:
    if not _kept:
        _kept.append(np.ones(50_000_000))
    time.sleep(0.7)  # loky looks at a process once a second
    return os.getpid()
