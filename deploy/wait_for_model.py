"""The wait for the model: Ollama is healthy long before its first pull ends.

So the service waits itself, and opens its port when a prompt would be answered.
"""

import asyncio
import logging

from llm_services import DefaultModelNotFoundError, LLMServiceError, create_llm_service
from settings import Settings

RETRY_SECONDS = 2

diagnostics = logging.getLogger("minivault")


async def wait_for_model(settings: Settings) -> None:
    """Return when the service could answer; print what it waits for, each reason once."""
    printed = ""
    async with create_llm_service(settings) as service:
        while True:
            try:
                return await service.check()
            except DefaultModelNotFoundError:
                reason = f"Ollama has the model {service.model}"
            except LLMServiceError as exc:
                reason = f"Ollama answers ({exc})"
            if reason != printed:
                diagnostics.info("MiniVault starts when %s", reason)
                printed = reason
            await asyncio.sleep(RETRY_SECONDS)
