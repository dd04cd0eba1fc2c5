"""Reviews: the true labels that users set, and how the labels of a model compare with them."""
