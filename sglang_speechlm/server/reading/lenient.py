"""The base of models for objects that OpenAI defines."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Lenient(BaseModel):
    """A model for OpenAI's objects: ignores unknown fields; does not accept strings as numbers."""

    model_config = ConfigDict(strict=True, extra="ignore")
