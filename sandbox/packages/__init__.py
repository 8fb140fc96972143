"""Packages for runs: requirement strings are read strictly (`grammar`), installed in a jail of their own (`install`), kept
as read-only layers named by what is in them (`layers`), and mounted into the run at /pkgs.

Nothing of a package is executed while it is installed: only wheels, no install scripts; and the jail that does it reaches
nothing but the index, through a proxy. What it made leaves it as bytes: regular files, checked and written by us.
"""
