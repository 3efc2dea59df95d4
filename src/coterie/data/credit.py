"""Default of credit card clients (Yeh, 2009), from a local table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from coterie.data.dataset import Dataset, split_test
from coterie.data.sources import folders
from coterie.data.tables import classes_of, read_sheet
from coterie.errors import DataError
from coterie.registry import datasets

NAMES = ("default_of_credit_card_clients.csv.gz", "default_of_credit_card_clients.csv")
FEATURES = 23


@datasets.register("credit")
def credit(argument: str, data_dir: Path | None) -> Dataset:
    """Whether credit card clients default next month: 30,000 rows of 23 features, 22 % of them do; from a local file.

    The file is ``default_of_credit_card_clients.csv``, perhaps with ``.gz``, in the folder of ``--data-dir`` or
    COTERIE_DATA or in its folder ``credit``: a header, the column ID, 23 features, the label last. The ID is dropped;
    features are scaled as ``data.scaling`` says. Accuracy says little here, as 78 % do not default: see ``auc``.

    Raises DataError where there is no such file, and where its columns are others. Source: I-Cheng Yeh, "Default of
    credit card clients", UCI Machine Learning Repository, 2009, CC BY 4.0.
    """
    found = (folder / name for folder in folders("credit", data_dir) for name in NAMES)
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        raise DataError(
            f"there is no {NAMES[0]}",
            where="dataset credit",
            remedy="Save the table of https://archive.ics.uci.edu/dataset/350 as CSV under that name, with one header "
            "row, and name its folder with --data-dir or the environment variable COTERIE_DATA.",
        )
    sheet = read_sheet(path)
    if sheet.header is None or sheet.header[0].upper() != "ID" or len(sheet.header) != FEATURES + 2:
        raise DataError(
            f"its columns are not ID, {FEATURES} features and the label",
            where=str(path),
            remedy="Keep one header row, that of the names, and all columns in their order.",
        )
    sheet = dataclasses.replace(sheet, features=sheet.features[:, 1:])
    labels, names = classes_of([sheet])
    if len(names) != 2:
        raise DataError(f"the label has {len(names)} values, not 2", where=str(path), remedy="Put the label last.")
    kept, test = split_test(labels, "credit")
    return Dataset("credit", sheet.features[kept], labels[kept], sheet.features[test], labels[test], 2, unscaled=True)
