"""What a user can mend, and the exit codes by which Kubernetes and the local engine tell the kinds apart.

The codes are those of sysexits.h where it has one; podFailurePolicy of the Indexed Jobs reads them.
"""

EXIT_USER_ERROR = 65
"""EX_DATAERR: the job or its data is wrong. Retrying cannot help."""

EXIT_TEMPORARY = 75
"""EX_TEMPFAIL: storage or network failed. Retrying may help."""

EXIT_STOPPED = 143
"""128 + SIGTERM: asked to stop, and stopped with everything saved."""

PEER_LEFT = "another process of the training group left"
"""How the message of a process begins that failed only because another one did: who looks for the cause passes it over."""


class UserError(ValueError):
    """The job, its data or its surroundings are wrong. The message names the field, the value and the remedy."""

    exit_code = EXIT_USER_ERROR
    traceback = ""
    """Where it happened, if that is in another process and a fault of ours."""


class StorageError(UserError):
    """Object storage refused or could not be reached. The message names the URI, the cause and the remedy."""

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.exit_code = EXIT_TEMPORARY if temporary else EXIT_USER_ERROR


class CorruptError(UserError):
    """A file is not what its manifest says. The message names the file, both digests and the remedy."""
