"""What turns a stock Debian 12 image into ours: provisioning, units, nginx, and the bake."""
