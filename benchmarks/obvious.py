"""The obvious way: what one writes first, FastAPI over httpx, a line at a time. It logs nothing."""

import json
import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

URL = os.environ.get("OLLAMA_HOST", "http://localhost:11434") + "/api/generate"

app = FastAPI()


class Prompt(BaseModel):
    prompt: str


@app.post("/generate")
async def generate(prompt: Prompt) -> dict[str, str]:
    asked = {"model": "tinyllama", "stream": False, "prompt": prompt.prompt}
    async with httpx.AsyncClient(timeout=None) as client:
        response = await client.post(URL, json=asked)
        return {"response": response.json()["response"]}


@app.post("/stream")
async def stream(prompt: Prompt) -> StreamingResponse:
    asked = {"model": "tinyllama", "prompt": prompt.prompt}

    async def tokens() -> AsyncIterator[str]:
        async with httpx.AsyncClient(timeout=None) as client:
            async with client.stream("POST", URL, json=asked) as response:
                async for line in response.aiter_lines():
                    yield json.loads(line)["response"]

    return StreamingResponse(tokens(), media_type="text/plain")
