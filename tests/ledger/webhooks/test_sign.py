"""Signatures, by the example of the standard and by a second implementation."""

from __future__ import annotations

import base64
import hashlib
import hmac

from ledger.webhooks.sign import headers, new_secret, signature


def test_the_example_of_the_standard() -> None:
    """https://github.com/standard-webhooks/standard-webhooks: the vector its libraries are tested with."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = '{"test": 2432232314}'
    made = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_two_secrets_sign_side_by_side() -> None:
    one, other = new_secret(), new_secret()
    fields = headers([one, other], "msg_1", 1_800_000_000, "{}")
    assert fields["webhook-id"] == "msg_1"
    for secret, given in zip((one, other), fields["webhook-signature"].split(" "), strict=True):
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = hmac.new(key, b"msg_1.1800000000.{}", hashlib.sha256).digest()
        assert given == "v1," + base64.b64encode(expected).decode()


def test_secrets_are_long_enough_and_never_alike() -> None:
    made = {new_secret() for _ in range(50)}
    assert len(made) == 50
    assert all(len(base64.b64decode(secret.removeprefix("whsec_"))) == 32 for secret in made)
