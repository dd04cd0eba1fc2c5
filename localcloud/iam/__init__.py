"""IAM of the local cloud: identity policies, evaluated as AWS does, when the switch `enforce_iam` is on."""
