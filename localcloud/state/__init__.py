"""The state of a local cloud on disk: the log, its folder, and what of each service is in it."""
