"""An AWS on loopback: moto's APIs, queues that are right and fast, and an EC2 that starts processes."""
