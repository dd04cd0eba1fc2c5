"""Auto Scaling: groups that keep the number of their instances, and refreshes of them."""
