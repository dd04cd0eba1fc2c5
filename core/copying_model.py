"""Models that are made from other objects with fields of the same names."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class CopyingModel(BaseModel):
    """An immutable model that can copy its fields."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    @classmethod
    def copied_from(cls, *sources: object, **own: Any) -> Self:
        """Return a model with the fields in `own`; each other one is copied from the first source that has it.

        A source may be None, which has no field.

        Raises:
            ValidationError: no source has a field that is required.
        """
        names = cls.model_fields.keys() - own.keys()
        found = {name: getattr(each, name) for each in reversed(sources) for name in names if hasattr(each, name)}
        return cls(**found | own)
