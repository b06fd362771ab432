"""The store's formats (names, launch configs, records), where its files lie, and their only reader and writer."""
