"""Features: each folder holds the routes, pages and loops of one; the rest of the web tier works without it."""
