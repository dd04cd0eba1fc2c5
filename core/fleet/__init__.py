"""The fleet: its values, which the tiers exchange, and the store of its items in the job table."""
