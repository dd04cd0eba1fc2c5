"""The models that classify: their catalogue, roll-out, comparison and page."""
