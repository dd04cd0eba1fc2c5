"""Changes of the catalogue by operators and by the configuration; `core/model_catalog.py` adds a model."""

from core.model_catalog import MAX_VERSIONS, CatalogRefusedError, ModelCatalog, ModelVersion, free_name, with_model


def without_model(catalog: ModelCatalog, name: str) -> ModelCatalog:
    """Return the catalogue without the model called `name`; its jobs keep it.

    Raises:
        UnknownModelError: there is none.
        CatalogRefusedError: new jobs get it.
    """
    version = catalog.named(name)
    if version.digest == catalog.default:
        raise CatalogRefusedError(f"new jobs get {version.name}: give them another model, then remove this one")
    previous = None if catalog.previous == version.digest else catalog.previous
    return catalog.changed(versions=tuple(each for each in catalog.versions if each != version), previous=previous)


def with_default(catalog: ModelCatalog, name: str) -> ModelCatalog:
    """Return the catalogue in which new jobs get the model called `name`.

    Raises:
        UnknownModelError: there is none.
    """
    digest = catalog.named(name).digest
    return catalog if digest == catalog.default else catalog.changed(default=digest, previous=catalog.default)


def rolled_back(catalog: ModelCatalog) -> ModelCatalog:
    """Return the catalogue in which new jobs get the default before; the default takes its place.

    Raises:
        CatalogRefusedError: there is none.
    """
    if catalog.previous is None:
        name = catalog.default_version.name
        raise CatalogRefusedError(f"there is no model before {name} to return to: choose one by its name")
    return with_default(catalog, catalog.previous)


def with_configured(catalog: ModelCatalog, version: ModelVersion) -> ModelCatalog:
    """Return the catalogue after the configuration has named the bundle `version` anew: new jobs get it.

    If its name is taken by another bundle, a part of the digest is added. In a full catalogue it replaces the oldest
    version that is not in use.
    """
    if catalog.find(version.digest) is None and len(catalog.versions) == MAX_VERSIONS:
        in_use = {catalog.default, catalog.previous}
        catalog = without_model(catalog, next(each.name for each in catalog.versions if each.digest not in in_use))
    changed = with_model(catalog, version.model_copy(update={"name": free_name(catalog, version)}))
    return with_default(changed, version.digest).changed(configured=version.digest)
