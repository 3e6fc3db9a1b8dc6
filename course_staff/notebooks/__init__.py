"""Keeping the notebooks: executing, cleaning, cards, badges, the rules they obey."""
