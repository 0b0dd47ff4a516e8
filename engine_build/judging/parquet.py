"""Sets kept as parquet, such as the public Tstars-VTON: the user's own small table says which column is what.

    [columns]                             # TOML
    id = "sample_id"                      # without it: the number of the row
    person = "person_image"
    instruction = "prompt"                # without it: the grammar's sentence for the categories
    truth = "ground_truth"                # may be left out

    [references]                          # columns that hold a list each, or one list of structs: "items.image"
    pictures = "garment_images"
    categories = "garment_types"
    sub_styles = "garment_styles"         # may be left out

    [[reference]]                         # or, instead, columns of one reference each; an empty picture is none
    picture = "cloth_1"
    category = "cloth_1_type"             # a column, or a fixed word: category_is = "tops"

    [categories]                          # the data set's words in ours; others stay as they are
    upper_body = "tops"

A picture is bytes, a struct with bytes or path (as Hugging Face writes images), or a path relative to the file. Nothing
is downloaded and nothing is copied out of the file; rows are read when a sample is looked at.
"""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from engine_build.errors import RequestError
from engine_build.judging import folders, layouts
from engine_build.judging.samples import JudgedSet, Picture, Reference, Sample, identifier

_COLUMNS = {"id", "person", "instruction", "truth"}
_LISTS = {"pictures", "categories", "sub_styles"}
_ONE = {"picture", "category", "category_is", "sub_style"}
_READING = threading.RLock()
"""A parquet file is read by one thread at a time."""


@dataclass(frozen=True)
class Columns:
    """The user's table, read; see the top of this file."""

    columns: Mapping[str, str]
    references: Mapping[str, str] = field(default_factory=dict)
    each: tuple[Mapping[str, str], ...] = ()
    categories: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Columns:
        """Raises RequestError for a table with words it does not know, or without a person and references."""
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise RequestError(f"{path}: {error}") from error
        each = said.get("reference", [])
        known = ((said.get("columns", {}), _COLUMNS), (said.get("references", {}), _LISTS), *((e, _ONE) for e in each))
        strange = [word for table, words in known for word in table if word not in words]
        strange += [word for word in said if word not in ("columns", "references", "reference", "categories")]
        if strange:
            raise RequestError(f"{path}: unknown {', '.join(sorted(strange))}")
        table = cls(said.get("columns", {}), said.get("references", {}), tuple(each), said.get("categories", {}))
        lists = {"pictures", "categories"} <= set(table.references)
        ones = bool(each) and all("picture" in one and {"category", "category_is"} & set(one) for one in each)
        if "person" not in table.columns or lists == ones:
            raise RequestError(
                f"{path} needs [columns] person and either [references] with pictures and categories, or [[reference]] "
                "entries with picture and category (or category_is)"
            )
        return table

    def ours(self, word: str) -> str:
        """A category of the data set in our words."""
        return self.categories.get(word, word)

    def said(self, pictures: bool) -> list[str]:
        """The columns that are read, with or without those that hold pictures."""
        of_words = [self.columns[name] for name in ("id", "instruction") if name in self.columns]
        of_words += [self.references[name] for name in ("categories", "sub_styles") if name in self.references]
        of_words += [one[name] for one in self.each for name in ("category", "sub_style") if name in one]
        of_pictures = [self.columns[name] for name in ("person", "truth") if name in self.columns]
        of_pictures += [self.references["pictures"]] if self.references else []
        return [*of_words, *(of_pictures if pictures else []), *(one["picture"] for one in self.each)]


def files_of(path: Path) -> list[Path]:
    """The parquet files of a name; none when it is something else."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))


def read(path: Path, columns: Path | None) -> JudgedSet:
    """The samples of a parquet file or folder. Raises RequestError without a table, or where it names no column."""
    files = files_of(path)
    if columns is None:
        raise RequestError(f"{path}: say what is what with --columns FILE.toml; {_found(files[0])}")
    table = Columns.load(columns)
    samples: list[Sample] = []
    for file in files:
        present = set(_paths(file))
        missing = [name for name in table.said(pictures=True) if name not in present]
        if missing:
            raise RequestError(f"{file} has no column {', '.join(map(repr, missing))}; {_found(file)}")
        for group in range(_opened(file).num_row_groups):
            words = _rows(file, group, tuple(table.said(pictures=False)))
            samples += [_sample(file, group, i, row, table, len(samples) + i) for i, row in enumerate(words)]
    return JudgedSet(path.stem, tuple(samples))


def _sample(file: Path, group: int, row: int, words: dict[str, Any], table: Columns, number: int) -> Sample:
    def picture(column: str, index: int | None = None) -> Picture:
        return Picture(read=partial(_picture, file, group, row, column, index))

    def words_of(column: str | None) -> list[str]:
        return [str(one or "") for one in _listed(_cell(words, column))] if column else []

    references: list[Reference] = []
    if table.references:
        kinds, styles = words_of(table.references["categories"]), words_of(table.references.get("sub_styles"))
        styles = styles or [""] * len(kinds)
        if len(styles) != len(kinds):
            raise RequestError(f"{file}, row {number}: {len(kinds)} categories and {len(styles)} sub-styles")
        pictures = [picture(table.references["pictures"], i) for i in range(len(kinds))]
        references += [Reference(*one) for one in zip(pictures, map(table.ours, kinds), styles, strict=True)]
    for one in table.each:
        if not _empty(_cell(words, one["picture"])):
            kind = one.get("category_is") or str(_cell(words, one["category"]) or "auto")
            style = str(_cell(words, one["sub_style"]) or "") if "sub_style" in one else ""
            references.append(Reference(picture(one["picture"]), table.ours(kind), style))
    said = table.columns
    name = identifier(str(_cell(words, said["id"]))) if "id" in said else f"row-{number:05d}"
    instruction = str(_cell(words, said["instruction"]) or "") if "instruction" in said else ""
    truth = picture(said["truth"]) if "truth" in said else None
    instruction = instruction or (folders.instruction_for(references) if references else "")
    return Sample(name, picture(said["person"]), tuple(references), instruction, truth)


def _picture(file: Path, group: int, row: int, column: str, index: int | None) -> bytes:
    with _READING:
        cell = _cell(_rows(file, group, (column,))[row], column)
    if index is not None:
        cell = _listed(cell)[index]
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        return layouts.inside(file.parent, cell).read_bytes()
    raise RequestError(f"{file}, column {column!r}: a picture expected, found {type(cell).__name__}")


@lru_cache(maxsize=8)
def _rows(file: Path, group: int, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of one group; few are kept, so that the pictures of a data set need not fit into memory."""
    top = sorted({path.partition(".")[0] for path in columns})
    rows: list[dict[str, Any]] = _opened(file).read_row_group(group, columns=top).to_pylist()
    return rows


@lru_cache(maxsize=64)
def _opened(file: Path) -> Any:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise RequestError("parquet files need pyarrow: pip install 'changeroom[judge]'") from error
    try:
        return ParquetFile(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise RequestError(f"{file} cannot be read as parquet: {error}") from error


def _paths(file: Path) -> list[str]:
    """Every column, and every field of structs and of lists of structs, by its dotted name."""

    def below(name: str, kind: Any) -> list[str]:
        import pyarrow.types

        if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
            return below(name, kind.value_type)
        inner = [kind.field(i) for i in range(kind.num_fields)] if pyarrow.types.is_struct(kind) else []
        return [name, *(path for one in inner for path in below(f"{name}.{one.name}", one.type))]

    return [path for one in _opened(file).schema_arrow for path in below(one.name, one.type)]


def _found(file: Path) -> str:
    return "found " + ", ".join(f"{one.name} ({one.type})" for one in _opened(file).schema_arrow)


def _cell(row: Any, path: str) -> Any:
    """A dotted name in nested values; a list is walked into."""
    for name in path.split("."):
        row = [one[name] for one in row] if isinstance(row, list) else None if row is None else row[name]
    return row


def _listed(cell: Any) -> list[Any]:
    return cell if isinstance(cell, list) else [] if cell is None else [cell]


def _empty(cell: Any) -> bool:
    return cell is None or cell == b"" or (isinstance(cell, Mapping) and not (cell.get("bytes") or cell.get("path")))
