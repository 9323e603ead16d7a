"""Models by name: what they are called, which are here, how they come. Only cli/ knows of it."""
