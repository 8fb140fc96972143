"""The fixtures of the API's tests, and people in browsers without JavaScript."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from admin.accounts.members import put_member
from admin.permissions import Role
from tests.admin.api.conftest import World, control_plane, world
from tests.admin.people import signed_in
from tests.admin.web.person import Person

__all__ = ["control_plane", "world"]

Enter = Callable[..., Awaitable[Person]]


@pytest.fixture
def enter(world: World) -> Enter:
    """`await enter("ada@example.com", Role.OWNER)`: signed in, and in project Shop with that role."""

    async def enter(email: str, role: Role | None = Role.OWNER, project_id: str | None = None) -> Person:
        await world.pg.execute("DELETE FROM sign_in_attempts")  # all tests come from one address
        browser = await signed_in(world.pg, world.where.url, world.session, email)
        account = (await browser.get("/auth/me")).json["account"]["id"]
        if role is not None:
            project = project_id or world.shop_id
            await put_member(world.pg, project, account, role)
            await world.pg.execute("UPDATE sessions SET project_id = $1 WHERE account_id = $2", project, account)
        return Person(browser, account)

    return enter


@pytest.fixture
async def owner(enter: Enter) -> Person:
    return await enter("owner@example.com")
