"""Jobs: their values, their items in the job table, and the store that reads and writes them."""
