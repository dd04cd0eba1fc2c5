"""``fleetsight roll``: a new image, or new settings, reach the fleet without a pause; and the way back."""
