"""Declaring a credential: its forms, its faults, and that its value is never repeated."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from admin.declare import DeclarationError, load
from ledger.credentials import CredentialSpec
from ledger.specs import UpstreamSpec

SECRET = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    "fields",
    [
        {"header": "Authorization", "prefix": "Bearer "},
        {"header": "X-Api-Key"},
        {"query": "api_key"},
        {"basic": "user@example.com"},
    ],
)
def test_the_value_is_in_no_dump(fields: dict[str, str]) -> None:
    spec = CredentialSpec.model_validate({**fields, "value": SECRET})
    assert spec.value is not None
    assert spec.value.get_secret_value() == SECRET
    assert SECRET not in repr(spec) + str(spec.model_dump()) + spec.model_dump_json()
    again = CredentialSpec.model_validate_json(spec.model_dump_json())
    assert again == spec.model_copy(update={"value": None})


def declared(credential: str) -> str:
    return f"projects: [{{name: P, upstreams: [{{name: u, targets: ['http://a'], credential: {credential}}}]}}]"


@pytest.mark.parametrize(
    ("credential", "message"),
    [
        (f"{SECRET}", "expected a mapping such as"),
        (f"[{SECRET}]", "expected a mapping such as"),
        (f"{{value: {SECRET}}}", "exactly one of header, query and basic"),
        (f"{{header: A, query: b, value: {SECRET}}}", "exactly one of"),
        (f"{{query: a, prefix: 'Bearer ', value: {SECRET}}}", "prefix goes with header"),
        (f"{{header: A, prefix: 'Bearer {SECRET}'}}", "belongs in value"),
        (f"{{header: A, value: '{SECRET} '}}", "printable ASCII"),
        (f"{{header: A, value: [{SECRET}]}}", "printable ASCII"),
        (f'{{header: A, value: "{SECRET}\\r\\nX: y"}}', "printable ASCII"),
        (f"{{header: A, value: {SECRET}, value_from_env: B}}", "exclude each other"),
        (f"{{header: A, valeu: {SECRET}}}", "unknown field; did you mean 'value'?"),
        ("{header: A, value: 1234567}", "put it in quotes"),
        ("{header: A, value: ''}", "printable ASCII"),
        ("{header: A, value_from_env: 'A B'}", "a variable's name"),
        ("{header: Content-Length}", "cannot be declared"),
        ("{header: Connection}", "cannot be declared"),
        ("{header: HOST}", "cannot be declared"),
        ("{header: X-User-Id}", "the gateway's own"),
        ("{header: X-Forwarded-For}", "the gateway's own"),
        ("{header: 'A:'}", "a header's name"),
        ("{query: 'a b'}", "a query parameter"),
        ("{basic: 'a:b'}", "a user name without"),
    ],
)
def test_faults_never_repeat_the_value(credential: str, message: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        load(declared(credential), "f.yaml")
    assert message in str(refused.value)
    assert SECRET not in str(refused.value)
    assert "1234567" not in str(refused.value)


def test_the_model_itself_does_not_repeat_it_either() -> None:
    for wrong in ({"value": 5}, {"header": "A", "value": SECRET + "\n"}):
        with pytest.raises(ValidationError) as refused:
            UpstreamSpec.model_validate({"name": "u", "targets": ["http://a"], "credential": wrong})
        assert all(SECRET not in e["msg"] for e in refused.value.errors())


def test_an_upstream_with_a_credential_can_still_be_a_key() -> None:
    fields: dict[str, Any] = {"name": "u", "targets": ["http://a"], "credential": {"query": "k"}}
    assert hash(UpstreamSpec.model_validate(fields)) == hash(UpstreamSpec.model_validate(fields))
