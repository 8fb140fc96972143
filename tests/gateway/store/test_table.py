"""The route table: exact before prefix, long before short, exact host before wildcard before any."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.nouns import Route
from gateway.store.table import RouteTable
from tests.gateway.nouns import route

examples = settings(max_examples=200, deadline=None, database=None, derandomize=True)


def table(*routes: Route) -> RouteTable:
    return RouteTable(routes)


def name_of(found: Route | frozenset[bytes] | None) -> str | None:
    assert found is None or isinstance(found, Route), f"only other methods are allowed: {found}"
    return None if found is None else found.name


# -- paths

PATHS = table(
    route("/*", "root"),
    route("/v1/*", "v1"),
    route("/v1/users/*", "users"),
    route("/v1/users/me", "me"),
    route("/v1/users/", "slash"),
)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/", "root"),
        (b"/v1", "root"),
        (b"/v1/", "v1"),
        (b"/v1/x", "v1"),
        (b"/v1/users", "v1"),
        (b"/v1/users/", "slash"),
        (b"/v1/users/x", "users"),
        (b"/v1/users/me", "me"),
        (b"/v1/users/me/", "users"),
        (b"/v1/users/me2", "users"),
        (b"/V1/x", "root"),
        (b"*", None),
    ],
)
def test_the_longest_prefix_that_ends_at_a_slash_and_an_exact_path_before_it(path: bytes, name: str | None) -> None:
    assert name_of(PATHS.match(b"any.test", path, b"GET")) == name


def test_a_parameter_takes_one_segment_that_is_not_empty_and_gives_way_to_a_literal() -> None:
    found = table(
        route("/users/{id}", "one"),
        route("/users/me", "me"),
        route("/users/{id}/files/*", "files"),
        route("/*", "root"),
    )
    assert name_of(found.match(b"a", b"/users/7", b"GET")) == "one"
    assert name_of(found.match(b"a", b"/users/me", b"GET")) == "me"
    assert name_of(found.match(b"a", b"/users/me/files/x/y", b"GET")) == "files"
    assert name_of(found.match(b"a", b"/users/", b"GET")) == "root"
    assert name_of(found.match(b"a", b"/users/7/", b"GET")) == "root"


def test_without_a_route_for_it_a_path_matches_nothing() -> None:
    assert table().match(b"any.test", b"/", b"GET") is None
    assert table(route("/v1/*", "v1")).match(b"any.test", b"/v2/x", b"GET") is None


# -- methods


def test_a_route_that_names_its_methods_comes_before_one_that_takes_any() -> None:
    found = table(route("/x", "any"), route("/x", "reads", methods=("GET", "HEAD")))
    assert name_of(found.match(b"a", b"/x", b"GET")) == "reads"
    assert name_of(found.match(b"a", b"/x", b"POST")) == "any"


def test_a_method_that_does_not_fit_falls_through_to_a_shorter_prefix() -> None:
    found = table(route("/v1/*", "v1", methods=("GET",)), route("/*", "root", methods=("POST",)))
    assert name_of(found.match(b"a", b"/v1/x", b"POST")) == "root"


def test_where_only_the_method_does_not_fit_the_allowed_ones_are_said() -> None:
    found = table(
        route("/v1/*", "v1", methods=("GET", "HEAD")),
        route("/v1/*", "on-host", methods=("PUT",), host="a.test"),
        route("/*", "root", methods=("POST",)),
        route("/v2/*", "v2", methods=("PATCH",)),
    )
    assert found.match(b"a.test", b"/v1/x", b"DELETE") == {b"GET", b"HEAD", b"PUT", b"POST"}
    assert found.match(b"b.test", b"/v1/x", b"DELETE") == {b"GET", b"HEAD", b"POST"}


# -- hosts

HOSTS = table(
    route("/*", "any"),
    route("/*", "exact", host="api.example.com"),
    route("/*", "with-port", host="api.example.com:8443"),
    route("/*", "wildcard", host="*.example.com"),
    route("/*", "deep", host="*.eu.example.com"),
    route("/*", "wild-port", host="*.ports.test:8443"),
    route("/only/*", "only", host="*.partial.test"),
)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (None, "any"),
        (b"other.test", "any"),
        (b"api.example.com", "exact"),
        (b"API.Example.com", "exact"),
        (b"api.example.com:80", "exact"),
        (b"api.example.com:8443", "with-port"),
        (b"www.example.com", "wildcard"),
        (b"www.example.com:8080", "wildcard"),
        (b"a.b.example.com", "wildcard"),
        (b"x.eu.example.com", "deep"),
        (b"example.com", "any"),
        (b"notexample.com", "any"),
        (b"a.ports.test:8443", "wild-port"),
        (b"a.ports.test", "any"),
        (b"a.ports.test:80", "any"),
        (b"[::1]", "any"),
        (b"[::1]:8443", "any"),
        (b"a.partial.test", "any"),
    ],
)
def test_the_closest_host_that_has_the_path(host: bytes | None, name: str) -> None:
    assert name_of(HOSTS.match(host, b"/x", b"GET")) == name


# -- against a naive reading of the rules

SEGMENTS = ("a", "b", "ab")
paths = st.lists(st.sampled_from(SEGMENTS), max_size=3).map(lambda parts: "/" + "/".join(parts))
asked = st.tuples(paths, st.sampled_from(("", "/"))).map(lambda pair: pair[0].rstrip("/") + pair[1] or "/")
patterns = st.lists(st.sampled_from((*SEGMENTS, "{id}")), max_size=3).map(lambda parts: "/" + "/".join(parts))
declared = paths | patterns | patterns.map(lambda path: path.rstrip("/") + "/*")
hosts = st.sampled_from((None, "x.test", "y.x.test", "*.x.test", "*.y.x.test"))
methods = st.sampled_from(((), ("GET",), ("POST",), ("GET", "PUT")))


def fits_host(wanted: str | None, host: str) -> bool:
    return wanted is None or (host.endswith(wanted[1:]) if wanted.startswith("*") else host == wanted)


def fits_path(wanted: str, path: str) -> bool:
    pattern = re.escape(wanted).replace(r"\{id\}", "[^/]+").replace(r"\*", ".*")
    return re.fullmatch(pattern, path) is not None


def how_specific(wanted: str) -> tuple[int, ...]:
    """Segment by segment: a literal beats a parameter, a parameter beats the star."""
    return tuple({"*": 0, "{id}": 1}.get(segment, 2) for segment in wanted.split("/")[1:])


def rank(each: Route, host: str) -> tuple[object, ...]:
    wanted = each.spec.host
    how_close = 2 if wanted == host else 0 if wanted is None else 1
    return how_close, len(wanted or ""), how_specific(each.spec.path), bool(each.methods), each.name


@given(
    st.lists(st.tuples(declared, hosts, methods), max_size=12, unique_by=lambda d: (d[0], d[1], tuple(sorted(d[2])))),
    asked,
    st.sampled_from(("x.test", "y.x.test", "z.y.x.test", "other")),
    st.sampled_from(("GET", "POST", "DELETE")),
)
@examples
def test_it_finds_what_reading_all_routes_would_find(
    declarations: list[tuple[str, str | None, tuple[str, ...]]], path: str, host: str, method: str
) -> None:
    routes = [route(path, f"r{n}", host=host, methods=methods) for n, (path, host, methods) in enumerate(declarations)]
    here = [r for r in routes if fits_host(r.spec.host, host) and fits_path(r.spec.path, path)]
    fitting = [r for r in here if not r.methods or method.encode() in r.methods]
    found = table(*routes).match(host.encode(), path.encode(), method.encode())
    if fitting:
        best = max(rank(r, host)[:4] for r in fitting)
        assert isinstance(found, Route)
        assert found in fitting
        assert rank(found, host)[:4] == best
    elif here:
        assert found == frozenset().union(*(r.methods for r in here))
    else:
        assert found is None
