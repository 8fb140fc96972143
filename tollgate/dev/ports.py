"""Which ports the planes get: the configured ones where they are free, free ones where 0 is asked for.

A busy port is an error that names the setting. Only the metrics ports and the sandbox's give way: nobody asked for them by
number as long as they have their defaults, and a second stack beside the first should start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from config.load import Loaded, values, variable
from config.settings import Settings
from tollgate.commands import UserError
from tollgate.dev.server import free_port, is_port_free

_PORTS: Final = {  # setting → the setting of its address, and the option of `tollgate dev`
    "gateway.port": ("gateway.host", "--gateway-port"),
    "admin.port": ("admin.host", "--admin-port"),
    "gateway.metrics_port": ("gateway.host", None),
    "admin.metrics_port": ("admin.host", None),
    "worker.metrics_port": ("worker.host", None),
    "sandbox.port": ("sandbox.host", None),
    "sandbox.metrics_port": ("sandbox.host", None),
}


def assign(
    loaded: Loaded, is_free: Callable[[int, str], bool] = is_port_free, pick: Callable[[], int] = free_port
) -> Settings:
    """The settings with a real number for every port. Raises UserError for a port that is busy or given twice."""
    given = values(loaded.settings)
    taken: dict[int, str] = {}
    for path, (host_path, option) in _PORTS.items():
        port = given[path]
        may_move = option is None and loaded.is_default(path)
        if port == 0 or (may_move and (port in taken or not is_free(port, given[host_path]))):
            port = pick()
            while port in taken:
                port = pick()
        elif port in taken:
            raise UserError(f"port {port} is given to both {taken[port]} and {path}")
        elif not is_free(port, given[host_path]):
            ways = f"free it, or set {option or ''}{' or ' if option else ''}{variable(path)} (0 picks a free one)"
            raise UserError(f"port {port} ({path}) is in use on {given[host_path]}: {ways}")
        taken[port] = path
    update: dict[str, dict[str, int]] = {}
    for port, path in taken.items():
        section, name = path.split(".")
        update.setdefault(section, {})[name] = port
    settings = loaded.settings
    return settings.model_copy(
        update={section: getattr(settings, section).model_copy(update=ports) for section, ports in update.items()}
    )
