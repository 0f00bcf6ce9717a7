"""How a choice between models is shown as a form.

The Prefect UI shows a union as tabs and opens the tab whose fields share the most names with the value. It does not
look at the discriminator: `{method: identity, k: …}` would open as PCA, be given PCA's defaults and then be refused. So
the schema of such a union has one tab for each set of names, the smallest sets first, and the discriminator is a menu
of the models that share the tab.
"""

from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema


class Tabs:
    """An annotation of a union of models, told apart by the field `discriminator`."""

    def __init__(self, discriminator: str) -> None:
        self.discriminator = discriminator

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        models = [handler.resolve_ref_schema(model) for model in handler(core_schema)["oneOf"]]
        tabs: dict[frozenset[str], list[dict[str, Any]]] = {}
        for model in models:
            tabs.setdefault(frozenset(model["properties"]), []).append(model)
        return {"anyOf": [self._tab(tabs[names]) for names in sorted(tabs, key=len)]}

    def _tab(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        choices = [model["properties"][self.discriminator]["const"] for model in models]
        said = [model["description"] for model in models]
        if len(models) > 1:
            said = [f"{choice}: {text}" for choice, text in zip(choices, said, strict=True)]
        choice = {"type": "string", "title": self.discriminator.capitalize(), "enum": choices, "default": choices[0]}
        fields = {
            name: _either([model["properties"][name] for model in models])
            for name in models[0]["properties"]
            if name != self.discriminator
        }
        return {
            "title": " / ".join(choices),
            "description": "\n".join(said),
            "type": "object",
            "additionalProperties": False,
            "properties": {self.discriminator: choice, **fields},
        }


def _either(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """The field of several models: what the first says, and numbers where one of them takes only whole ones."""
    types = {schema.get("type") for schema in schemas}
    merged = {**schemas[0], "type": "number"} if types == {"integer", "number"} else schemas[0]
    said = list(dict.fromkeys(schema["description"] for schema in schemas if "description" in schema))
    return {**merged, "description": " / ".join(said)} if said else merged
