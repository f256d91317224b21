"""The failures that end a command: one line a person can act on, and the exit code that goes with it.

    WorkerError              1  could not be completed
    +-- DatabaseError        1  the database cannot be reached, read or written
    |   +-- SchemaError      1  its tables are older or newer than this version needs
    |   +-- TooSlowError     1  it needs longer than the reader waits
    +-- PartlyDone           1  a result was printed, and says what was not done
    +-- UsageError           2  the command line or a setting is wrong

What a call to Linq can come back with is another family, in `worker.linq.answers`.
"""


class WorkerError(Exception):
    """The command could not be completed; the message says why in one line, without secrets."""

    exit_code = 1


class DatabaseError(WorkerError):
    """The database cannot be reached, read or written."""


class SchemaError(DatabaseError):
    """The database's tables are not those that this version of the worker needs."""


class TooSlowError(DatabaseError):
    """The database needs longer for a question than the reader waits."""


class PartlyDone(WorkerError):  # noqa: N818 -- a result, not an error
    """Not all was done, or nothing; the result, which was printed before, says what was."""


class UsageError(WorkerError):
    """The command line or a setting is wrong."""

    exit_code = 2
