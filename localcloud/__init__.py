"""An AWS on loopback: moto's APIs, queues that are right and fast, and an EC2 that starts processes."""

import os

os.environ["MOTO_DISABLE_GLOBAL_CORS"] = "true"  # before moto is imported: it would let every web page read answers

__version__ = "0.3.0"
