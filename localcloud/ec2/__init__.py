"""EC2 of the local cloud: launches as on EC2, and instances whose state follows their machines."""
