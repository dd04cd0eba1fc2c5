"""Policies of the template judged by `@cloud-copilot/iam-simulate`, on the calls that a run makes.

`recording` writes down each signed request at the local cloud, `checks` says which permissions it needs, and `judge`
asks iam-simulate, which decides with AWS's service data.
"""
