"""What an AWS account lacks for a stack, found out before anything is made."""
