"""Messages about finished jobs and reached spending caps: by e-mail, or to a topic."""
