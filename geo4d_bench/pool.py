"""Jobs in processes of this machine, or on an existing Ray cluster (the extra ``cluster``)."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TypeVar

from geo4d_bench.errors import ConfigError, WorkerError
from geo4d_bench.fingerprint import fingerprint
from geo4d_bench.interrupt import ignore_sigint

J = TypeVar("J")
R = TypeVar("R")


def run_jobs(work: Callable[[J], R], jobs: Sequence[J], workers: int, cluster: str | None = None) -> Iterable[R]:
    """``work`` of every job, as they are finished, in no order; what ``work`` raises is raised here.

    Args:
        work: a function of an installed module, pickled like the jobs.
        workers: processes of this machine; with 1, or one job, all is done in this process, in the order of ``jobs``.
        cluster: address of a Ray cluster in place of processes, see :func:`on_cluster`.

    Raises:
        WorkerError: the system ended a process, for example because memory ran out.
    """
    if cluster is not None and jobs:
        yield from on_cluster(work, jobs, cluster)
        return
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(work, jobs)
        return
    with processes(workers) as executor:
        left, pending = iter(jobs), set[Future[R]]()
        while True:
            # One more than processes work on, so that none waits and little is dropped when this is stopped.
            pending |= {executor.submit(work, job) for job in islice(left, workers + 1 - len(pending))}
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
        executor.shutdown()


@contextmanager
def processes(workers: int, prepare: Callable[[], object] = int) -> Iterator[Executor]:
    """New processes of one thread each, which ignore Ctrl-C and end with the block, or with this process; ``prepare``
    is called in each. What they take and return goes through pipes.

    Raises:
        WorkerError: the system ended one, or can start none.
    """
    from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

    # Processes, because an OpenGL context and a simulation belong to one each; started afresh for every call, never
    # forked. One thread each, since more would only take turns.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    try:
        executor = ProcessPoolExecutor(
            workers, timeout=None, initializer=_begin, initargs=(os.getpid(), prepare), env=threads
        )
    except OSError as error:
        raise WorkerError(
            f"no worker processes: their locks lie in /dev/shm, which cannot be written ({error.strerror}); make it "
            "writable, or use fewer workers"
        ) from error
    try:
        with ignore_sigint():
            executor.submit(int)  # starts all of them
        yield executor
    except BrokenProcessPool as error:
        raise WorkerError(
            f"the system ended one of {workers} worker processes (memory full?); what was finished is kept: "
            "run the same command again, with a smaller --workers if memory is short"
        ) from error
    finally:
        # loky's thread fails on what is still in the queue when it is told to end.
        with suppress(queue.Empty):
            while True:
                executor._work_ids.get_nowait()
        executor.shutdown(kill_workers=True)


def _begin(parent: int, prepare: Callable[[], object]) -> None:
    """Runs first in a new process, which ends when the command that started it was killed."""
    from joblib.externals.loky import process_executor

    # loky would end a process that holds 300 MB more than when it began and start another, with a warning that may
    # kill the thread which feeds them. A generator takes more than that, and is kept on purpose.
    process_executor._USE_PSUTIL = False

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the command, but sent to all of its group
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    prepare()


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread: processes share the cores, and sums do not depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_cluster(work: Callable[[J], R], jobs: Sequence[J], address: str) -> Iterable[R]:
    """:func:`run_jobs` on a Ray cluster, one CPU for each job.

    Every node needs this release of geo4d-bench and must see the same files. A job whose node or process dies is done
    again, three times at most.

    Args:
        address: of the head node as ``ray start`` prints it (``192.168.0.1:6379``), or ``auto``.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
        WorkerError: a node has another source, or processes died again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--cluster needs Ray: pip install 'geo4d-bench[cluster]'") from error
    try:
        if address != "auto" and "://" not in address:  # Ray itself would wait for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--cluster {address}: no Ray cluster of this version answers ({error}); start one with 'ray start --head' "
            "on one machine and 'ray start --address' on the others"
        ) from error
    try:
        remote = ray.remote(num_cpus=1, max_retries=3)(_same_source)
        pending = [remote.remote(work, job, fingerprint()) for job in jobs]
        while pending:
            (done, *_), pending = ray.wait(pending, num_returns=1)
            yield ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"a worker process of the cluster died again and again (memory full?): {str(error).splitlines()[0]}; "
            "what was finished is kept: run the same command again"
        ) from error
    finally:
        ray.shutdown()


def _same_source(work: Callable[[J], R], job: J, source: str) -> R:
    """Runs on a node: other source could give other results."""
    if fingerprint() != source:
        raise WorkerError(
            f"node {socket.gethostname()} has geo4d-bench with source {fingerprint()}, this machine {source}: install "
            "the same release on all nodes"
        )
    return work(job)
