"""The book of record that all planes share.

Nouns, the key format, usage events, the error catalogue, the names of everything in Redis, the SQL schema with its
migrations, and what keeps the books: ingest (stream to Postgres) and rollups. Imports nothing but `config`.
"""
