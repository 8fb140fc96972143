"""Upstreams: where requests go. They serve both modes of a project; one that a route uses cannot be deleted."""
