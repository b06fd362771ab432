"""Models, devices and engines: what is known of them, and what follows for a file's name and shapes."""
