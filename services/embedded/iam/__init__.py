"""Who may call what on the embedded cloud: identity policies, decided as AWS decides them."""
