"""The base of the bodies that the web tier answers with, of the API and of its pages."""

from pydantic import ConfigDict

from core.copying_model import CopyingModel


class ApiBody(CopyingModel):
    """Base of all bodies, without unknown fields."""

    model_config = ConfigDict(extra="forbid")
