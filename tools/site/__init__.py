"""The site: coverage and evidence of the store as static pages, which the store and the registries alone make."""
