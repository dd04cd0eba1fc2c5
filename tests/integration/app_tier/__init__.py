"""The worker over the real wire: the embedded cloud, real worker processes."""
