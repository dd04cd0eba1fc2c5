"""Jobs: their values, their items in the job table, their objects in the buckets, and what reads and writes both."""
