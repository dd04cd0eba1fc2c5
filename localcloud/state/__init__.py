"""The state of a local cloud on disk: its folder, and what is done so that it has what calls have changed."""
