"""Jobs on the machines of an existing Ray cluster, which is the extra ``cluster``."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import TypeVar

from geo4d_bench.errors import ConfigError, WorkerError
from geo4d_bench.fingerprint import fingerprint

J = TypeVar("J")


def on_cluster(work: Callable[[J], str], jobs: list[J], address: str) -> Iterable[str]:
    """``work`` of every job, one CPU each, as they are finished, in no order.

    Every node needs this release of geo4d-bench and must see the same files. A job whose node or process dies is done
    again, three times at most.

    Args:
        work: a function of an installed module.
        jobs: what it is called with; pickled.
        address: of the head node as ``ray start`` prints it (``192.168.0.1:6379``), or ``auto``.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
        WorkerError: a node has another source, or processes died again and again.
        Exception: what ``work`` itself raised, as it was.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--cluster needs Ray: pip install 'geo4d-bench[cluster]'") from error
    try:
        _require_listener(address)
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
            "finished episodes are kept: run the same command again"
        ) from error
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """OSError or ValueError where nothing listens there: Ray itself would go on asking for minutes."""
    if address != "auto" and "://" not in address:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def _same_source(work: Callable[[J], str], job: J, source: str) -> str:
    """Runs on a node: other source could make other episodes."""
    if fingerprint() != source:
        raise WorkerError(
            f"node {socket.gethostname()} has geo4d-bench with source {fingerprint()}, this machine {source}: install "
            "the same release on all nodes"
        )
    return work(job)
