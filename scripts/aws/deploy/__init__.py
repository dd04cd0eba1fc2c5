"""``up``: from any state of an account to a stack that is complete and a page that answers."""
