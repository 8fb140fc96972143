"""Projects: the tenants. Made here, found by name or id; `kind` is fixed when a project is made."""
