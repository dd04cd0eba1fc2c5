"""How much one user, or one address, may ask for: requests a minute, attempts to sign in, images and bytes a day."""
