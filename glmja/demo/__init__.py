"""The demo: the whole pipeline on a tiny model, with the texts that ship with the package."""
