"""Dead letters: images that the system gave up, which operators redrive or discard."""
