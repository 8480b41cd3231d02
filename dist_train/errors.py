"""Exceptions: user errors (message, exit 2) and internal errors (traceback, exit 1).

    UserError            exit code 2, a message and no traceback
    ├── ConfigError      a setting, or a settings file
    ├── DataError        missing or damaged data, or data that do not fit the model
    ├── CheckpointError  a checkpoint that cannot be loaded or does not fit the settings
    │   ├── DamagedError     damaged files; an earlier checkpoint may be undamaged
    │   └── UnreadableError  files that can't be read now, as on a disk with errors
    ├── WorldError       launcher variables or devices that do not fit
    ├── LedgerError      a ledger that is missing, empty or can't be read
    ├── SlurmError       Slurm is missing, or refuses
    └── RefusedElsewhereError   another rank has refused the run, and prints why

    OwnCodeError         exit code 1: the user's code has failed; the text holds its traceback
    └── OwnImportError   the user's code can't be imported, so that a restart would fail as well
    NonFiniteError       exit code 4: the loss or a gradient is infinite or not a number
    SaveError            exit code 1, a message and no traceback: the last checkpoint could not be written
    OutputError          exit code 1, a message and no traceback: standard output could not be written
    └── OutputClosedError       exit code 141: its reader has ended, as in `... | head`

All other exceptions are internal errors: exit code 1, with a traceback. A message names the file, setting or variable,
its value, what is allowed, and what to do.
"""


class UserError(Exception):
    """An error that the user can correct; its text is the whole message."""

    exit_code = 2


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type or not possible, or a file that holds no settings."""


class DataError(UserError):
    """Data that are missing or damaged, or whose shape or number of classes does not fit the model."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or was written with other settings."""


class DamagedError(CheckpointError):
    """A checkpoint with missing or changed files; an earlier one may be undamaged."""


class UnreadableError(CheckpointError):
    """A checkpoint that is there and can't be read now; whether it is damaged is not known."""


class WorldError(UserError):
    """Launcher variables that are incomplete or contradict each other, or too few devices."""


class LedgerError(UserError):
    """A ledger that is missing, empty or can't be read, so that its run can't be compared."""


class SlurmError(UserError):
    """Slurm is not installed, does not answer, or refuses a request."""


class RefusedElsewhereError(UserError):
    """Another rank has refused the run and prints why; this one ends without a message."""


class NonFiniteError(Exception):
    """The loss or a gradient is infinite or not a number; nothing from that step is saved."""

    exit_code = 4

    def __init__(self, text: str, is_own: bool = True, overrides: str = "") -> None:
        """
        Args:
            is_own: whether it happened on this rank, not only on another.
            overrides: settings to try next, such as `optim.lr=0.01`; the proposed command includes them.
        """
        super().__init__(text)
        self.is_own = is_own
        self.overrides = overrides


class OwnCodeError(Exception):
    """The user's code raised an exception; the text holds where it was called, and its traceback."""


class OwnImportError(OwnCodeError):
    """The user's code can't be imported; a restart would fail as well."""


class OutputError(Exception):
    """Standard output can't be written; raised by commands whose result is what they print."""


class OutputClosedError(OutputError, BrokenPipeError):
    """The reader of standard output has ended, as in `... | head`, and nothing is said about it."""


class SaveError(Exception):
    """The last checkpoint of a run could not be written; training since the checkpoint before it is lost."""


def mark_reported(error: BaseException) -> None:
    """Mark an error as already printed, so that it is not printed again."""
    vars(error)["is_reported"] = True


def is_reported(error: BaseException) -> bool:
    """Whether this error is already printed."""
    return "is_reported" in vars(error)
