"""What a learner has done: kept in one file, and packed to be handed in."""
