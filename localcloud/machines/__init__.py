"""What an instance runs as: a process, or a machine that boots; started, found again, ended with all that is its."""
