"""The control of the fleet by operators: its page, pauses, limits, allowances and drains."""
