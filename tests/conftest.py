"""Property tests draw the same examples in every run; `--hypothesis-profile=search` looks for new ones.

`unshrunk`, for the mutants, stops at the first example that fails.
"""

from hypothesis import HealthCheck, Phase, settings

_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, max_examples=25, **_COMMON)
settings.register_profile("search", derandomize=False, max_examples=1_000, print_blob=True, **_COMMON)
settings.register_profile(
    "unshrunk", derandomize=True, max_examples=25, phases=[Phase.explicit, Phase.generate], **_COMMON
)
settings.load_profile("same")
