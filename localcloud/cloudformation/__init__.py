"""CloudFormation of the local cloud: it creates a stack once, and deletes it.

It proves that the resources of a template can be created in the order of their references, that roles suffice, and
that settings and user data reach the instances. It does not simulate what only AWS can prove: updates, rollback,
imports and the validation of change sets. Tests of those use AWS's documented answers (`tests/unit/scripts`).
moto's creates resources without calling their services, so the patches of moto would not apply to them.
"""
