"""Errors of the engine.

EngineError
├── CheckpointError   a checkpoint is missing, incomplete, or not what its configuration says
├── RequestError      what the caller asked for cannot be done
├── BackendError      the chosen backend cannot run here
└── MemoryShortage    one request, or the whole plan, needs more memory than the device has
"""


class EngineError(Exception):
    """Anything the engine reports; the message is one line that says what to do."""


class CheckpointError(EngineError):
    """A checkpoint folder or file that cannot be used as it is."""


class RequestError(EngineError):
    """A request outside what the checkpoint or the engine supports."""


class BackendError(EngineError):
    """A backend that is unknown or cannot run on this machine."""


class MemoryShortage(EngineError):
    """More memory is needed than there is; a request that ends so has been tried alone."""
