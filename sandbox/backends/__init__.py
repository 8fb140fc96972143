"""Where runs happen: `jail` (this machine's kernel, no daemon) and `docker` (an Engine), behind one interface (`base`)."""
