"""What a person sees; every page works without JavaScript."""
