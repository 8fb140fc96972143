"""The soak: the whole product at full load for minutes, while its configuration and its workers are changed under it.

`make soak ARGS="--seconds 300"`. What it promises to show: memory that does not grow, no answer of 5xx, no broken
connection, and the same count everywhere.
"""
