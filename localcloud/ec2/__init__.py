"""EC2 of the local cloud: launches as on EC2, and instances in the state of their machines."""
