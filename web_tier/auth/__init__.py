"""Authentication and authorization: sign-in, sessions, tokens, permissions, and the owners of jobs."""
