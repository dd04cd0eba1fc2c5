"""The cost report: what images cost by day, user, job or model."""
