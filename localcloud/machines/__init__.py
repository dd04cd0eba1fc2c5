"""The machines of instances, which are processes: how they start, are found again, and end."""
