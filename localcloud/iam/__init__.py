"""Who may call what on the local cloud: identity policies, decided as AWS decides them."""
