"""Compiled loops over machine words; they know no parties and hold no policy about secrets."""
