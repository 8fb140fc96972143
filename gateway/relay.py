"""What belongs to the admin plane, passed on as it is: the gateway's origin is the only one that clients need to know.

A request that no declared route matches and whose path is one of admin's goes to `gateway.admin_url`, unmetered and with
its credential: admin checks that itself. Without the setting such paths are 404 here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.exchange import BodyTooLarge, ClientGone, suspend
from gateway.forward import connect, drop_upstream, prepare, try_again, upstream_head
from gateway.memory import Caller
from gateway.pipeline import answer
from gateway.proxy.headers import to_upstream
from gateway.proxy.upstream import UpstreamBroken
from gateway.store.compile import make_route
from ledger import problems
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.specs import AuthMode, RouteSpec, UpstreamSpec

if TYPE_CHECKING:
    from gateway.context import Gateway
    from gateway.exchange import Exchange
    from gateway.store.nouns import Route

_FIRST_SEGMENTS: Final = frozenset(
    b"""
    auth authorize callback webhook login logout dashboard operator playground docs openapi.json .well-known static
    projects get-credentials promote-to-live dev
    keys tiers routes customers usage team audit settings webhooks alerts billing licences store
    """.split()
)
_UNDER_API: Final = frozenset(
    b"""
    v1 keys tiers projects usage dashboard customers subscriptions licenses products cart stripe webhooks
    create-checkout customer-portal
    """.split()
)

_NO_PLAN: Final[Any] = None
"""Nothing is limited or counted here."""


def admin_route(url: str) -> Route:
    """The route to the admin plane at `url`."""
    spec = RouteSpec(
        name="admin", path="/*", upstream="admin", auth=AuthMode.NONE, strip_prefix=False, preserve_host=True
    )
    upstream = UpstreamSpec.model_validate({"name": "admin", "targets": [url]})
    return make_route("admin", PLATFORM_PROJECT_ID, "admin", spec, upstream)


def belongs_to_admin(path: bytes) -> bool:
    """True if admin serves this path (PRODUCT: accounts, pages, and what is under /api)."""
    first, _, rest = path[1:].partition(b"/")
    if first == b"api":
        return rest.partition(b"/")[0] in _UNDER_API
    return first in _FIRST_SEGMENTS


async def relay(gw: Gateway, ex: Exchange, route: Route) -> None:
    """The life of a request to admin: forward, nothing else."""
    client = ex.client
    tail = to_upstream(ex.fields, b"") + client.sender(ex.fields).lines()
    if ex.fields.chunked:
        tail += b"Transfer-Encoding: chunked\r\n"
    caller = Caller(ex.line, ex.fields, client.peer_ip, route, 0, 0.0, _NO_PLAN, tail)
    prepare(gw, ex, route)
    pool = route.pools.next()
    try:
        try:
            connection = pool.idle() or await connect(ex, pool)
            connection.send(ex, upstream_head(caller, pool, ex.id))
            response = await suspend()
        except UpstreamBroken as broken:
            response = await try_again(gw, ex, caller, pool, broken)
        ex.status = response.status
        client.start_response(ex, response.lead, b"", response.framing)
        await suspend()
        client.end_body(ex.response_trailers)
    except UpstreamBroken as broken:
        gw.incidents.note(broken.problem.code, str(broken), route.name, ex.id)
        if ex.response_started:
            client.abort()
        else:
            answer(ex, broken.problem)
    except BodyTooLarge:
        drop_upstream(ex)
        answer(ex, problems.BODY_TOO_LARGE)
    except ClientGone:
        drop_upstream(ex)
