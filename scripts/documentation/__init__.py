"""The documentation site: the reference, which is made from the code, and the pages from other folders."""
