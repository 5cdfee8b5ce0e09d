"""The errors of the program, for the rooms in front: they know nothing of `storage`."""

from storage.errors import CannotListen, ConfigurationError, WalcastError

__all__ = ["CannotListen", "ConfigurationError", "LoadFailed", "WalcastError"]


class LoadFailed(WalcastError):
    """The legacy database cannot be read for a client now."""
