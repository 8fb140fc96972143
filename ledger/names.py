"""The name of everything in Redis, in one place.

Every key carries a hash tag `{NN}`, the shard of its (project, customer): counters, reservations and the usage stream of
a customer share a Redis Cluster slot, so one script can change all of them atomically. The number of shards is a setting
fixed for the life of a Redis data set.

| name                                  | type   | holds                                                            |
|---------------------------------------|--------|------------------------------------------------------------------|
| `tg:{NN}:usage`                       | stream | usage events, field `e`; group `ledger`; entries removed once stored |
| `tg:{NN}:resv`                        | hash   | open reservations: event id → reservation JSON                    |
| `tg:{NN}:win:<scope>`                 | list   | admission times (Unix ms) inside a sliding window, oldest first   |
| `tg:{NN}:quota:<owner>:<meter>:<t>`   | string | used + reserved in the period that began at Unix second t         |
| `tg:{NN}:places:<scope>`              | set    | ids of what is under way, of a customer or route that limits it  |
| `tg:{NN}:idem:<sha>`                  | string | an idempotent count already made                                  |
| `tg:{NN}:applied`                     | hash   | spool id → number of its last record that was replayed here       |
| `tg:{NN}:epoch`                       | string | present while the shard's counters are complete (ledger/heal.py)   |
| `tg:run`                              | string | the Redis process that the epochs were made under                 |
| `tg:heal`, `tg:heal:<pass>`           | string, set | the healing pass under way; the gateways that reported to it |
| `tg:gateways`                         | zset   | gateway processes by when they last said that they live (Unix s)  |
| `tg:gateway:<instance>`               | string | "alive", expires; a reservation of an instance without it is orphaned |
"""

from __future__ import annotations

import zlib
from typing import Final

STREAM_FIELD: Final = b"e"
CONSUMER_GROUP: Final = "ledger"


def shard_of(project_id: str, customer_id: str | None, shards: int) -> int:
    """The shard that everything of one (project, customer) lives in; usage without a customer goes by project."""
    return zlib.crc32(f"{project_id}/{customer_id or ''}".encode()) % shards


GATEWAYS: Final = "tg:gateways"
RUN: Final = "tg:run"
HEAL: Final = "tg:heal"


def usage_stream(shard: int) -> str:
    return f"tg:{{{shard:02d}}}:usage"


def reservations(shard: int) -> str:
    return f"tg:{{{shard:02d}}}:resv"


def epoch(shard: int) -> str:
    return f"tg:{{{shard:02d}}}:epoch"


def epoch_beside(reservations_key: str) -> str:
    """The epoch of the same shard."""
    return reservations_key.removesuffix("resv") + "epoch"


def reports(token: str) -> str:
    return f"{HEAL}:{token}"


def applied(reservations_key: str) -> str:
    """What was replayed from spools, beside the reservations of the same shard."""
    return reservations_key.removesuffix("resv") + "applied"


def window(shard: int, scope: str) -> str:
    return f"tg:{{{shard:02d}}}:win:{scope}"


def burst_scope(scope: str) -> str:
    """The longer window beside the one of a minute."""
    return f"{scope}:burst"


def quota(shard: int, owner: str, meter: str, period_start: int) -> str:
    return f"tg:{{{shard:02d}}}:quota:{owner}:{meter}:{period_start}"


def places(shard: int, scope: str) -> str:
    return f"tg:{{{shard:02d}}}:places:{scope}"


def idempotency(shard: int, digest: str) -> str:
    return f"tg:{{{shard:02d}}}:idem:{digest}"


def gateway_alive(instance: str) -> str:
    return f"tg:gateway:{instance}"
