"""Packages that the base install does without."""

from __future__ import annotations

import importlib
from typing import Any

from coterie.errors import ModelError


def require(package: str, extra: str) -> Any:
    """The module ``package``. Raises ModelError naming the extra where it is not installed."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        if missing != package:
            backend = ", or set KERAS_BACKEND=torch before Keras is imported" if package == "keras" else ""
            raise ModelError(
                f"{package} cannot be imported: {error}", where="mlPlatform", remedy=f"Install {missing}{backend}."
            ) from error
        raise ModelError(
            f"{package} is not installed", where="mlPlatform", remedy=f"pip install 'coterie[{extra}]'"
        ) from None
    except ImportError as error:
        raise ModelError(f"{package} cannot be imported: {error}", where="mlPlatform", remedy="Mend it.") from error
