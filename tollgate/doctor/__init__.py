"""`tollgate doctor`: looks at everything a deployment stands on, and says in words what it found and what to change."""
