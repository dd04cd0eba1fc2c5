"""The worker over the real wire: the local cloud, real worker processes."""
