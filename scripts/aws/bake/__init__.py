"""``fleetsight bake``: from Debian's newest image to the machine images of workers and web tier."""
