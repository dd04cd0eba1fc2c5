"""Messages to the SNS topic about finished jobs, spending caps and outages."""
