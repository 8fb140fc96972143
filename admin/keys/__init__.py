"""Keys: made, listed, rotated, revoked.

A key's text exists in two places only: the answer that shows it once, and wherever its owner keeps it. Here there is
its SHA-256 and its first 12 characters. Rotating makes a new key with the same properties and lets the old one live on
for a grace period; a key is rotated once, its successor is rotated next. Revoking is at once and for good.
"""

from admin.keys.create import CreatedKey, create_key, rotate_key
from admin.keys.rows import Key, get_key, has_secret_key, list_keys, revoke_key

__all__ = ["CreatedKey", "Key", "create_key", "get_key", "has_secret_key", "list_keys", "revoke_key", "rotate_key"]
