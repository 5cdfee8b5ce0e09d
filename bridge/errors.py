"""The errors of the program, for the rooms in front: they know nothing of `storage`."""

from storage.errors import CannotListen, ConfigurationError, WalcastError

__all__ = ["CannotListen", "ConfigurationError", "WalcastError"]
