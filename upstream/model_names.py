"""Names of models as Ollama lists them."""

DEFAULT_TAG = ":latest"


def canonical_name(model: str) -> str:
    """Return a model's name as `/api/tags` lists it, in lower case since Ollama ignores case."""
    name = without_registry(model)
    return name if ":" in name.rpartition("/")[2] else name + DEFAULT_TAG


def without_registry(model: str) -> str:
    """Return a model's name in lower case, without the registry that Ollama takes for granted."""
    return model.casefold().removeprefix("registry.ollama.ai/").removeprefix("library/")
