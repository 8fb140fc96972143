"""Tests of the book of record: one file per source file, against real PostgreSQL and Redis."""
