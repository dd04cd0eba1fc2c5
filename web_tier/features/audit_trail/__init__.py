"""The audit trail as operators read it."""
