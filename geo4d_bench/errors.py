"""The errors that a user can meet: each says what was expected, what was got, and what to do.

The command line prints the sentence of any :class:`Geo4DError` on stderr, without a traceback, and exits with 2.
"""


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


class SceneError(Geo4DError):
    """A scene that cannot be sampled, packed, loaded or rendered as asked."""


class PolicyError(Geo4DError):
    """A policy whose output breaks the protocol (shapes, finiteness, arms)."""


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
