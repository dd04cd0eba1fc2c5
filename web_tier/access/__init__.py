"""Who asks, and what they may: sign-in, sessions, tokens, rights, and the owners of jobs."""
