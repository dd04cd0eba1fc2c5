"""S3 of the local cloud: objects that stay readable while they are overwritten, direct calls, and POST Object."""
