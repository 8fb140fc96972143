"""Declarations: files that say what shall exist, applied in one transaction, and written again from what exists.

A file is read into a tree that knows its places (source), checked (load, explain, faults), applied (apply) and described
as a difference for people (show); export writes a file that applies to itself without a change.

The rules: names are identities. What a file declares is made so; what it does not mention stays, unless `prune` is asked
for, which deletes the routes, upstreams, issuers and tiers of the declared projects that are not in the file. Projects,
customers and keys are never deleted by a file. How it fails: DeclarationError (the file), Refused (what exists); nothing
is half done.
"""

from admin.declare.apply import apply
from admin.declare.environment import filled_in
from admin.declare.export import export
from admin.declare.faults import DeclarationError, Fault
from admin.declare.load import load
from admin.declare.show import show

__all__ = ["DeclarationError", "Fault", "apply", "export", "filled_in", "load", "show"]
