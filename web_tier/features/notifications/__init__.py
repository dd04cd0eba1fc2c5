"""Messages to SNS topics about finished jobs, spending caps and outages."""
