"""What a user can mend, told apart from what is our fault.

    UserError            exit code 2, a message and no traceback
    ├── ConfigError      a setting, or the file that holds it
    ├── DataError        files that are missing, damaged or do not fit the model
    ├── CheckpointError  a checkpoint that does not load or does not fit the settings
    │   └── DamagedError     its files are not what was written; one before it may be whole
    ├── WorldError       the process was started with variables or devices that do not fit
    ├── LedgerError      a ledger that is not there
    ├── SlurmError       a scheduler that is not there, or refuses
    └── RefusedElsewhereError   another rank has refused, and says why

    NonFiniteError       exit code 4: the loss or a gradient is no number any more
    SaveError            exit code 1, a message and no traceback: the run's last checkpoint is not on disk

Anything else that is raised is a fault of the program or of the machine: exit code 1, with its traceback.
A message says where, what is, what is allowed and what to do.
"""


class UserError(Exception):
    """Something that the user can mend; its text is the whole message shown."""

    exit_code = 2


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type or impossible, or a file of settings that is not one."""


class DataError(UserError):
    """Data that are missing, damaged, or of a shape or class count that the model does not take."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or written under other settings."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are missing or are not what was written: one before it may be whole."""


class WorldError(UserError):
    """Variables of the launcher that are half set or contradict each other, or too few devices."""


class LedgerError(UserError):
    """A run without a ledger, where one is to be compared."""


class SlurmError(UserError):
    """Slurm is not there, does not answer, or refuses."""


class RefusedElsewhereError(UserError):
    """Another rank has refused the run and prints why; this one ends in silence."""


class NonFiniteError(Exception):
    """The loss or the gradients are infinite or not a number; nothing of that step was saved."""

    exit_code = 4

    def __init__(self, text: str, is_own: bool = True, overrides: str = "") -> None:
        """
        Args:
            is_own: whether it came up on this rank, and not only on another.
            overrides: settings worth trying, such as `optim.lr=0.01`; the next command proposed has them.
        """
        super().__init__(text)
        self.is_own = is_own
        self.overrides = overrides


class SaveError(Exception):
    """The last checkpoint of a run could not be written: what it has trained since the one before is lost."""


def mark_told(error: BaseException) -> None:
    """Note that a screen has told of this error, so that nothing else prints it."""
    vars(error)["is_told"] = True


def is_told(error: BaseException) -> bool:
    """Whether a screen has told of this error."""
    return "is_told" in vars(error)
