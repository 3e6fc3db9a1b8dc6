"""Keeping the notebooks: where they are, executing, cleaning, cards, badges, their rules."""
