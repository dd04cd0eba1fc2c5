"""What every request passes: its checks, limits and headers, its parameters and body, and the form of its answer."""
