"""The machines of instances, processes or booted images: how they start, are found again, and end."""
