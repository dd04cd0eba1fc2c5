"""The pages with which people make an account, sign in and out, and look after passwords and tokens."""
