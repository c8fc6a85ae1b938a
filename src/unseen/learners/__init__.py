"""Learners: from aligned columns to models, alone or together with other parties."""
