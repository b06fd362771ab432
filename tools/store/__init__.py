"""The store's formats and where its files lie: names, launch configs, records, tiers, and the only reader and writer."""
