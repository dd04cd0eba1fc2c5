"""Sharing of jobs: an owner lets others read a job by a link, or by the address of their account."""
