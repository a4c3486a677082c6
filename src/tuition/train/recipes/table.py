"""The table of recipes: a new way of training is one file here and one row.

In: a name.  Out: the class of its settings, without torch, and the recipe, with torch, when a run begins.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from tuition.core.errors import NotFoundError
from tuition.train.recipes.continued_settings import ContinuedSettings
from tuition.train.recipes.finetune_settings import FinetuneSettings
from tuition.train.recipes.pretrain_settings import PretrainSettings


@dataclass(frozen=True)
class Entry:
    """One row."""

    name: str
    settings: type[Any]
    """A frozen dataclass: the options that `tuition train` takes beside those of the loop."""
    module: str
    """Imported when a run begins, since it needs torch."""
    recipe: str
    """The class in it, made from its settings."""

    def make(self, settings: Any) -> Any:
        """The recipe with these settings: a `train.recipe.Recipe`."""
        return getattr(importlib.import_module(self.module), self.recipe)(settings)


RECIPES = {
    entry.name: entry
    for entry in (
        Entry("pretrain", PretrainSettings, "tuition.train.recipes.pretrain", "Pretrain"),
        Entry("finetune", FinetuneSettings, "tuition.train.recipes.finetune", "Finetune"),
        Entry("continue", ContinuedSettings, "tuition.train.recipes.continued", "Continued"),
    )
}


def find_recipe(name: str) -> Entry:
    """Raises: NotFoundError."""
    if name not in RECIPES:
        raise NotFoundError("recipe", name, list(RECIPES))
    return RECIPES[name]
