"""The worker: receives requests, classifies images, publishes predictions, and ends itself when idle."""
