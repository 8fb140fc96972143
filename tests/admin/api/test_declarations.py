"""Apply and export over HTTP."""

from __future__ import annotations

from tests.admin.api.conftest import World
from tests.admin.declared import SHOP, revision

YAML = "application/yaml"


async def test_what_is_so_already_changes_nothing(world: World) -> None:
    before = await revision(world.pg)
    answer = await world.test.post("/api/v1/apply", SHOP, Content_Type=YAML)
    assert answer.json == {"dry_run": False, "mode": "test", "skipped": 4, "changes": []}
    assert await revision(world.pg) == before


async def test_a_change_in_the_mode_of_the_key(world: World) -> None:
    text = SHOP.replace("price_minor: 4900", "price_minor: 5900")
    for dry_run in ("true", "false"):
        answer = await world.test.post(f"/api/v1/apply?dry_run={dry_run}", text, Content_Type=YAML)
        assert answer.json["changes"] == [
            {
                "action": "updated",
                "noun": "tier",
                "name": "pro",
                "project_id": world.shop_id,
                "mode": "test",
                "fields": {"price_minor": {"before": 4900, "after": 5900}},
            }
        ]
        expected = 4900 if dry_run == "true" else 5900
        rows = await world.pg.fetch(
            "SELECT mode, price_minor FROM tiers WHERE name = 'pro' AND project_id = $1 ORDER BY mode", world.shop_id
        )
        assert [tuple(row) for row in rows] == [("live", 4900), ("test", expected)]


async def test_json_is_taken_too(world: World) -> None:
    answer = await world.test.post("/api/v1/apply", {"projects": [{"name": "Shop", "tiers": [{"name": "gold"}]}]})
    assert [change["name"] for change in answer.json["changes"]] == ["gold"]


async def test_prune(world: World) -> None:
    answer = await world.test.post("/api/v1/apply?prune=true", {"projects": [{"name": "Shop", "tiers": []}]})
    assert (answer.status, answer.code) == (409, "conflict")
    text = (await world.test.get("/api/v1/export")).text
    without = text[: text.index("    routes:")]
    answer = await world.test.post("/api/v1/apply?prune=true", without, Content_Type=YAML)
    assert [f"{c['action']} {c['noun']}" for c in answer.json["changes"]] == ["deleted route"] * 2


async def test_the_export_applies_to_itself(world: World) -> None:
    for client in (world.test, world.live, world.platform):
        exported = await client.get("/api/v1/export")
        assert exported.headers["Content-Type"].startswith(YAML)
        answer = await client.post("/api/v1/apply?prune=true", exported.text, Content_Type=YAML)
        assert answer.json["changes"] == []


async def test_the_platform_makes_projects(world: World) -> None:
    answer = await world.platform.post("/api/v1/apply", {"projects": [{"name": "New", "tiers": [{"name": "t"}]}]})
    assert [change["noun"] for change in answer.json["changes"]] == ["project", "tier"]
    assert "name: New" in (await world.platform.get("/api/v1/export")).text


async def test_faults_of_a_text_have_places(world: World) -> None:
    text = "projects:\n  - name: Shop\n    tires: []\n    routes:\n      - {name: x}\n"
    answer = await world.test.post("/api/v1/apply", text, Content_Type=YAML)
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.json["errors"] == [
        {
            "field": "projects[0].tires",
            "message": "unknown field; did you mean 'tiers'?",
            "line": 3,
            "column": 5,
        },
        {"field": "projects[0].routes[0].path", "message": "is missing", "line": 5, "column": 9},
        {"field": "projects[0].routes[0].upstream", "message": "is missing", "line": 5, "column": 9},
    ]


async def test_faults_of_json_have_paths(world: World) -> None:
    answer = await world.test.post("/api/v1/apply", {"projects": [{"name": "Shop", "kind": "zoo"}]})
    assert answer.errors == {"projects[0].kind": "expected 'saas' or 'store', got 'zoo'"}


async def test_what_is_refused_has_a_path(world: World) -> None:
    answer = await world.test.post("/api/v1/apply", {"projects": [{"name": "Shop", "kind": "store"}]})
    assert (answer.status, list(answer.errors)) == (409, ["projects[0].kind"])


REFUSED: list[tuple[str | bytes, str, int]] = [
    ("projects: []", "text/plain", 415),
    ("a: [", YAML, 422),
    ("", YAML, 422),
    (b"\xff\xfe", YAML, 422),
    ("[", "application/json", 400),
    ("x" * 70_000, YAML, 413),
]


async def test_bodies_that_are_refused(world: World) -> None:
    for text, content_type, status in REFUSED:
        assert (await world.test.post("/api/v1/apply", text, Content_Type=content_type)).status == status, text[:20]


async def test_a_mistyped_flag_applies_nothing(world: World) -> None:
    before = await revision(world.pg)
    body = {"projects": [{"name": "Shop", "tiers": [{"name": "x"}]}]}
    for query in ("dry_run=yes", "dryrun=true", "dry_run=true&dry_run=false", "prune="):
        assert (await world.test.post(f"/api/v1/apply?{query}", body)).status == 422
    assert await revision(world.pg) == before
