"""Whether engines still name, find and read tuned files as the loader believes. Runs code of the engines' wheels."""
