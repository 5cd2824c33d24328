"""Names of models as Ollama lists them."""


def canonical_name(model: str) -> str:
    """Return a model's name as `/api/tags` lists it, in lower case since Ollama ignores case."""
    name = model.casefold().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
