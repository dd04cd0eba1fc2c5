"""Messages about finished jobs and reached spending caps: by webhook, by mail, or to a topic."""
