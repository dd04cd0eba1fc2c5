"""Tell: what pages and commands show of it."""
