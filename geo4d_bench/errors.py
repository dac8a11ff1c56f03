"""The errors that a user can meet: each says what was expected, what was got, and what to do.

The command line prints the sentence of any :class:`Geo4DError` on stderr, without a traceback, and exits with 2.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "the file is larger than the system allows (ulimit -f)",
}
"""The system's errors that come of too little space, in words."""


class Geo4DError(Exception):
    """Base of every error that a wrong input, file or setting causes."""


class UnknownNameError(Geo4DError):
    """A task, rig, policy or preset that is not registered; the message suggests the nearest names."""


class ConfigError(Geo4DError):
    """Options that contradict one another or are out of range."""


class DatasetError(Geo4DError):
    """A dataset or episode file that is missing, cut off, changed or of another schema."""


class CheckpointError(Geo4DError):
    """A checkpoint folder that is missing, incomplete or made for another configuration."""


class TrainingError(Geo4DError):
    """A training that cannot go on, because its loss or its weights are not finite any more."""


class SceneError(Geo4DError):
    """A scene that cannot be sampled, packed, loaded or rendered as asked."""


class PolicyError(Geo4DError):
    """A policy whose output breaks the protocol (shapes, finiteness, arms)."""


class ActionError(PolicyError):
    """An action that no robot can carry out (shape, finiteness, range); the message names arm and step."""


class LedgerError(Geo4DError):
    """An episode ledger that is cut off, of another schema, or mixes runs that must not be mixed."""


class WorkerError(Geo4DError):
    """A worker process that the system ended: what others finished is kept."""


class PluginError(Geo4DError):
    """Another package's policy, tracker, generator or task that cannot be used."""


class BusyError(Geo4DError):
    """A folder that another command is writing."""


class RunError(Geo4DError):
    """A folder that holds another run."""


def explain(error: ValidationError) -> str:
    """pydantic's first complaint: ``cameras.0.name: Field required, got {'position': [1, 0, 2]}``."""
    fault = error.errors(include_url=False)[0]
    # A validator's own sentence says what it got.
    text = (
        str(fault["ctx"]["error"]) if fault["type"] == "value_error" else f"{fault['msg']}, got {fault['input']!r:.80}"
    )
    return ": ".join([".".join(map(str, fault["loc"])), text]).removeprefix(": ")
