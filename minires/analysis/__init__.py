"""Looking at networks from outside: the gradient check and what else explains them."""
