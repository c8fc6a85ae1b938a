"""What holds for all tests: hypothesis tries the same examples every time, however slow the machine is."""

from hypothesis import settings

settings.register_profile("unseen", derandomize=True, deadline=None)
settings.load_profile("unseen")
