"""A result's way out: queried in pages, exported as a whole."""
