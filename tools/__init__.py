"""The workshop of the book: set-up, checks, notebooks, site, training. Nothing here ships."""
