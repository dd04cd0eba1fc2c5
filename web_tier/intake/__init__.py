"""An image's way in: read it from the request, decide whether it is one, store it, record it, ask for its result."""
