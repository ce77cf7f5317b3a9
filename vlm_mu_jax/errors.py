"""The two failures a user is meant to see: one line each, no traceback."""


class InputError(ValueError):
    """Bad input or usage. The message names the file or flag and says what to do; commands exit with 2."""


class JobError(RuntimeError):
    """The job itself failed (for example a loss that is not finite); commands exit with 1."""
