"""Who asks, and what they may: sign-in, sessions, tokens, rights, and whose a job is."""
