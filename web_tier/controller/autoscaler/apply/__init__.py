"""Apply: launch, start, drain, keep on standby, and sweep, each so that it may be done again."""
