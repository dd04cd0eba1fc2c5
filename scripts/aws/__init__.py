"""``fleetsight bake | up | status | roll | logs | ssh | down``: from an empty AWS account to a system, and back."""
