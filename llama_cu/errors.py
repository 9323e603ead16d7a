"""Every exception a caller may want to catch.

LlamaCuError
├── ModelError          the checkpoint cannot be run: missing file, wrong shape, unknown field
├── BackendUnavailable  the asked-for backend has no device, driver or library
├── HubError            a model cannot be fetched
└── RequestError        this one request cannot be served; the engine goes on
"""


class LlamaCuError(Exception):
    """Base of all errors that llama-cu raises on purpose."""


class ModelError(LlamaCuError):
    """The checkpoint cannot be run; the message names the file or field, expected and found."""


class BackendUnavailable(LlamaCuError):
    """The asked-for device, driver or library is not there; the message says what to install."""


class RequestError(LlamaCuError):
    """One request cannot be served, for example because it can never fit; the engine goes on."""


class HubError(LlamaCuError):
    """A model cannot be fetched; the message names it, or its file, and what can be done."""
