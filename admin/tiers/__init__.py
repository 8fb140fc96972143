"""Tiers: the plans of a project, one row per mode, with a quota per meter.

At most one tier of a mode is the default; making another one the default takes that from the one before. A tier that
any subscription refers to, even one that is over, cannot be deleted.
"""
