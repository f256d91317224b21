"""How many examples Hypothesis tries where each costs a pass or a command: some in `make check`, more in torture."""

import os
from typing import Final

from hypothesis import HealthCheck, settings

DEEP: Final = "TORTURE_EXAMPLES" in os.environ


def bounded(examples: int) -> settings:
    """Settings for so many examples, and twenty times as many in `make torture`; a fixture serves all of them."""
    return settings(
        max_examples=examples * (20 if DEEP else 1),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
