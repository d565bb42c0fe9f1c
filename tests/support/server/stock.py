"""Clients of others."""

import openai


def openai_client(url: str) -> openai.OpenAI:
    """Return OpenAI's own client of a server without a key. Close it in the end."""
    http_client = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http_client)
