"""Linq's official SDK as a client of the simulator."""

from linq import AsyncLinqAPIV3

from worker.simulator.account import SIMULATED_KEY


def strict_sdk(base_url: str) -> AsyncLinqAPIV3:
    """The SDK, told to refuse any answer that differs from its models, and not to call twice."""
    return AsyncLinqAPIV3(api_key=SIMULATED_KEY, base_url=base_url, max_retries=0, _strict_response_validation=True)
