"""Recipes of images: data in ``images/NAME/``, read and checked here."""

import hashlib
import json
import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from hyper_kernel.errors import InternalError, NotFoundError
from hyper_kernel.oci.mmdebstrap import split_list


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What an image is built from.

    :param name: what the image will be called.
    :param packages: Debian packages.
    :param requirements: wheels, ``NAME==VERSION``, with all they depend on.
    :param run: commands run in the image by its shell when everything is in it.
    :param env, cmd, cwd, labels: the image's configuration.
    """

    name: str
    packages: tuple[str, ...]
    requirements: tuple[str, ...]
    run: tuple[str, ...]
    env: tuple[str, ...]
    cmd: tuple[str, ...]
    cwd: str
    labels: dict[str, str]

    def digest(self, *parts: str) -> str:
        """A digest of all that decides what is built: the recipe, and what else is given."""
        values = [getattr(self, field.name) for field in fields(self)]
        return hashlib.sha256(json.dumps([values, parts], sort_keys=True).encode()).hexdigest()


def find_recipes() -> Path:
    """The folder of recipes: in a checkout, or in the installed package."""
    package = Path(str(files("hyper_kernel")))
    for folder in (package / "_images", package.parent / "images"):
        if folder.is_dir():
            return folder
    raise InternalError(f"the recipes of images are missing beside {package}", hint="install hyper-kernel again")


def read_recipe(folder: Path) -> Recipe:
    """The recipe in a folder.

    :raise NotFoundError: there is none.
    :raise InternalError: it lacks something or says something that is not known.
    """
    try:
        data = tomllib.loads((folder / "image.toml").read_text())
        config = data.pop("config")
        recipe = Recipe(
            name=data.pop("name"),
            packages=split_list((folder / data.pop("packages")).read_text()),
            requirements=split_list((folder / data.pop("requirements")).read_text()),
            run=tuple(data.pop("run", ())),
            env=tuple(config.pop("env")),
            cmd=tuple(config.pop("cmd")),
            cwd=config.pop("cwd"),
            labels=config.pop("labels", {}),
        )
    except FileNotFoundError as exc:
        raise NotFoundError(
            f"{exc.filename} is missing", hint="a recipe has an image.toml and the lists it names"
        ) from exc
    except (KeyError, TypeError, tomllib.TOMLDecodeError) as exc:
        raise InternalError(f"{folder / 'image.toml'} is not a recipe: {exc}") from exc
    _refuse_unknown(folder, {**data, **config})
    return recipe


def _refuse_unknown(folder: Path, left: dict[str, Any]) -> None:
    if left:
        raise InternalError(f"{folder / 'image.toml'} says {', '.join(sorted(left))}, which is not known")
