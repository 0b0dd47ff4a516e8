"""Commands of `changeroom` that need more than a few lines."""
