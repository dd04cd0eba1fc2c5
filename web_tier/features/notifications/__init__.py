"""Messages to SNS topics about finished jobs, spending caps, outages and roll-backs."""
