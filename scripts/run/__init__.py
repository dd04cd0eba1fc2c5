"""`./scripts/run.sh`: the whole system on this machine, and a batch of images that it classifies."""
