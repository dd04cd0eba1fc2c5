"""The models that classify: their catalogue and page."""
