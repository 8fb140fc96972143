"""The whole product, started the way a user starts it, seen only from outside."""
