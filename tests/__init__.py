"""The test suite: mirrors the sources, plus contracts, faults and end-to-end."""
