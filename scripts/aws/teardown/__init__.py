"""``down``: drain, delete, and prove that nothing is left."""
