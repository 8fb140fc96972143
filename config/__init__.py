"""Settings: frozen, validated at start, passed down; and the files a deployment edits. Does no network I/O."""
