"""How many connections the process can hold: each takes a descriptor, and some have to be left for everything else."""

from __future__ import annotations

import logging

from bridge.settings import Settings

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

log = logging.getLogger("walcast")

RESERVE = 64
"""Descriptors kept for the databases, for HTTP requests beside the connections, and for those being refused."""


def fitted(settings: Settings) -> Settings:
    """Raise the limit of open files as far as we may; settings with no more connections than fit into it.

    Whoever comes then is refused with 4101, instead of using up what is needed to open the database again.
    """
    if resource is None:
        return settings
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != hard and hard != unlimited:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == unlimited or settings.max_connections <= soft - RESERVE:
        return settings
    most = max(1, soft - RESERVE)
    log.log(
        logging.WARNING if "max_connections" in settings.model_fields_set else logging.INFO,
        "the limit of open files is %d, so at most %d connections are taken, not %d; raise it (ulimit -n)",
        soft, most, settings.max_connections,
    )  # fmt: skip
    return settings.model_copy(update={"max_connections": most})
