"""Usage on disk while Redis is away: what was served and could not be settled yet, kept until it can be."""
