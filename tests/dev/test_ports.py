"""Which ports the planes get. Pure: which ports are busy is an argument."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from config.load import load
from tollgate.commands import UserError
from tollgate.dev.ports import assign


def busy(*ports: int) -> Callable[[int, str], bool]:
    return lambda port, _: port not in ports


def picked() -> Callable[[], int]:
    """Picks 30001, 30002, …"""
    return count(30_001).__next__


def test_free_ports_are_taken_as_configured() -> None:
    settings = assign(load(None, {}, {}), busy(), picked())
    assert settings == load(None, {}, {}).settings


def test_zero_picks_a_free_port_of_its_own_for_each() -> None:
    overrides = {"gateway.port": 0, "admin.port": 0, "worker.metrics_port": 0}
    settings = assign(load(None, {}, overrides), busy(), picked())
    assert (settings.gateway.port, settings.admin.port, settings.worker.metrics_port) == (30_001, 30_002, 30_003)
    assert settings.gateway.metrics_port == 8090


def test_a_port_that_was_picked_already_is_not_picked_again() -> None:
    picks = iter((8081, 8081, 30_001))
    settings = assign(load(None, {}, {"admin.port": 0, "gateway.port": 8081}), busy(), lambda: next(picks))
    assert (settings.gateway.port, settings.admin.port) == (8081, 30_001)


@pytest.mark.parametrize(
    ("port", "message"),
    [
        (8080, r"port 8080 \(gateway\.port\) is in use on 127\.0\.0\.1.*--gateway-port or TOLLGATE_GATEWAY_PORT"),
        (8081, r"port 8081 \(admin\.port\) is in use on 127\.0\.0\.1.*--admin-port or TOLLGATE_ADMIN_PORT"),
    ],
)
def test_a_busy_port_is_named_with_its_setting(port: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign(load(None, {}, {}), busy(port), picked())


def test_a_metrics_port_gives_way_only_while_nobody_chose_it() -> None:
    assert assign(load(None, {}, {}), busy(8090), picked()).gateway.metrics_port == 30_001
    with pytest.raises(UserError, match=r"port 8090 \(gateway\.metrics_port\) .* set TOLLGATE_GATEWAY_METRICS_PORT"):
        assign(load(None, {"TOLLGATE_GATEWAY_METRICS_PORT": "8090"}, {}), busy(8090), picked())


def test_one_port_for_two_is_refused() -> None:
    with pytest.raises(UserError, match=r"port 9000 is given to both gateway\.port and admin\.port"):
        assign(load(None, {}, {"gateway.port": 9000, "admin.port": 9000}), busy(), picked())
