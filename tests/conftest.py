"""Property tests draw the same examples in every run; `--hypothesis-profile=search` looks for new ones."""

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, max_examples=25, **_COMMON)
settings.register_profile("search", derandomize=False, max_examples=1_000, print_blob=True, **_COMMON)
settings.load_profile("same")
