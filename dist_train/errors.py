"""What a user can mend, told apart from what is our fault.

    UserError            exit code 2, a message and no traceback
    ├── ConfigError      a setting, or the file that holds it
    ├── DataError        files that are missing, damaged or do not fit the model
    ├── CheckpointError  a checkpoint that does not load or does not fit the settings
    ├── WorldError       the process was started with variables or devices that do not fit
    └── RefusedElsewhereError   another rank has refused, and says why

    NonFiniteError       exit code 4: the training itself has failed, not the program

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


class WorldError(UserError):
    """Variables of the launcher that are half set or contradict each other, or too few devices."""


class RefusedElsewhereError(UserError):
    """Another rank has refused the run and prints why; this one ends in silence."""


class NonFiniteError(Exception):
    """A loss or a gradient that is not finite; the text names step, learning rate, gradient norm and samples."""

    exit_code = 4

    def __init__(self, message: str, overrides: str = "") -> None:
        """Args: overrides: settings worth trying, such as `optim.lr=0.01`; the next command proposed has them."""
        super().__init__(message)
        self.overrides = overrides


def mark_told(error: BaseException) -> None:
    """Note that a screen has told of this error, so that nothing else prints it."""
    vars(error)["is_told"] = True


def is_told(error: BaseException) -> bool:
    """Whether a screen has told of this error."""
    return "is_told" in vars(error)
