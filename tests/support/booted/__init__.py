"""Images of the instances made on this machine, and machines that boot them."""
