"""What tests stand on: servers to talk to, and nothing that decides whether a test passes."""
