"""Every reason that conditions and Events of a PretrainJob can have: one word each, for programs; messages are for people."""

from __future__ import annotations

# Accepted
VALID = "Valid"
INVALID = "Invalid"
STORAGE_IN_USE = "StorageInUse"

# Progressing: true
STARTING = "Starting"
STAGE_RUNNING = "StageRunning"
# Progressing: false, and why not
QUEUED = "Queued"
RESTARTING = "Restarting"
UNSCHEDULABLE = "Unschedulable"
IMAGE_PULL = "ImagePull"
CONTAINER_CONFIG = "ContainerConfig"
NODE_LOST = "NodeLost"
APPLY_REFUSED = "ApplyRefused"
NAME_TAKEN = "NameTaken"
SERVER_UNAVAILABLE = "ServerUnavailable"
INTERNAL_ERROR = "InternalError"

# Suspended
SUSPENDED = "Suspended"
BUDGET_EXCEEDED = "BudgetExceeded"
NOT_SUSPENDED = "NotSuspended"

# Succeeded and Failed
NOT_FINISHED = "NotFinished"
SUCCEEDED = "Succeeded"
STAGE_FAILED = "StageFailed"
USER_ERROR = "UserError"
RESTARTS_EXHAUSTED = "RestartsExhausted"
DEADLINE_EXCEEDED = "DeadlineExceeded"

# Only of Events
ACCEPTED = "Accepted"
STAGE_SUCCEEDED = "StageSucceeded"
GROUP_RESTARTED = "GroupRestarted"
RESUMED = "Resumed"
RECOVERED = "Recovered"
ALREADY_FINISHED = "AlreadyFinished"
