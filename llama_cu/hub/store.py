"""Which models are here: in the hub's cache, which other programs share, and in a folder of ours.

The cache is read by its layout, without the hub's library: a model must load without it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_cu.errors import HubError, ModelError
from llama_cu.folders import cache_home
from llama_cu.hub.names import ALIASES, INDEX, SINGLE, HubName, parse_name

_PREFIX = "models--"


@dataclass(frozen=True)
class StoredModel:
    """A model that can be loaded: its name, and the folder or file to load it from."""

    name: str
    path: Path


def hub_cache() -> Path:
    """Where the hub's library keeps what it downloads."""
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if own:
        return Path(os.path.expanduser(own))  # as the hub's library has it
    home = os.environ.get("HF_HOME")
    return (Path(os.path.expanduser(home)) if home else _cache_home() / "huggingface") / "hub"


def own_store() -> Path:
    """Where models are kept that do not come from the hub: NAME.gguf, by alias."""
    return _cache_home() / "llama-cu" / "models"


def find_stored(name: str) -> Path | None:
    """The path of a pulled model by alias or id; None for a name of nothing that is here.

    ModelError where a part of it is missing.
    """
    wanted = parse_name(name)
    if wanted is None:
        return None
    own = own_store() / f"{name.lower()}.gguf"
    if name.lower() in ALIASES and own.is_file():
        return own
    snapshot = _snapshot(wanted)
    if snapshot is None:
        return None
    path = snapshot if wanted.file is None else snapshot / wanted.file
    missing = missing_files(path) if wanted.file is None else [] if path.is_file() else [path.name]
    if missing:
        if not any(snapshot.rglob("*.safetensors")) and wanted.file is None:
            return None  # another program's: a tokenizer, or GGUF files alone
        lacks = ", ".join(missing)
        raise ModelError(f"{name}: only a part is here, without {lacks}: llama-cu pull {wanted}")
    return path


def stored_models() -> Iterator[StoredModel]:
    """Every model that `find_stored` finds, by the name that finds it."""
    aliases = {repo: alias for alias, repo in ALIASES.items()}
    for path in sorted(own_store().glob("*.gguf")):
        if path.stem in ALIASES:
            yield StoredModel(path.stem, path)
    for folder in sorted(hub_cache().glob(f"{_PREFIX}*--*")):
        repo = folder.name.removeprefix(_PREFIX).replace("--", "/", 1)
        for revision, snapshot in _revisions(folder):
            at = "" if revision == "main" else f"@{revision}"
            if _is_whole(snapshot):
                yield StoredModel(aliases.get(repo, repo) + at, snapshot)
            for file in sorted(snapshot.rglob("*.gguf")):
                yield StoredModel(f"{repo}/{file.relative_to(snapshot).as_posix()}{at}", file)


def missing_files(snapshot: Path) -> list[str]:
    """The files that a folder lacks before it can be loaded."""
    needed = ["config.json"]
    index = snapshot / INDEX
    if index.is_file() and not (snapshot / SINGLE).is_file():
        needed += weight_files(index)
    else:
        needed.append(SINGLE)
    return [name for name in needed if not (snapshot / name).is_file()]


def _is_whole(snapshot: Path) -> bool:
    """Whether no file is missing; yes for a damaged index, which whoever loads it is told of."""
    try:
        return not missing_files(snapshot)
    except ModelError:
        return True


def weight_files(index: Path) -> list[str]:
    """The files that an index names. ModelError for a damaged one."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: expected an index with a weight_map: {error}") from error
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelError(f"{index}: expected names of files beside it, found others")
    return sorted(names)


def repo_folder(repo: str) -> Path:
    """A repository's folder in the hub's cache."""
    return hub_cache() / (_PREFIX + repo.replace("/", "--"))


def place_blob(blob: Path, repo: str, commit: str, name: str) -> Path:
    """Let a file of a commit be a blob, and return its path."""
    path = repo_folder(repo) / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:  # a system, or a person, without the right to make links
        blob.replace(path)
    return path


def name_commit(name: HubName, commit: str) -> None:
    """Have a branch or tag mean a commit, all of whose files are here."""
    if name.revision != commit:
        ref = repo_folder(name.repo) / "refs" / name.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, encoding="utf-8")


def remove(name: str) -> int:
    """Delete a pulled model with all its revisions; the bytes that came free.

    ModelError for a name of nothing that is here. Other programs that use the hub's cache lose it
    too.
    """
    wanted = parse_name(name)
    folders = [] if wanted is None else [repo_folder(wanted.repo)]
    own = own_store() / f"{name.lower()}.gguf"
    if name.lower() in ALIASES:
        folders.append(own)
    freed = 0
    for path in folders:
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
        elif path.is_dir():
            freed += folder_bytes(path)
            shutil.rmtree(path)
    if not freed:
        raise ModelError(f"{name}: not here; llama-cu models lists what is")
    return freed


def folder_bytes(path: Path) -> int:
    """Bytes of a file or of all files below a folder; links count as what they are, little."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _snapshot(wanted: HubName) -> Path | None:
    folder = repo_folder(wanted.repo)
    found = dict(_revisions(folder)).get(wanted.revision)
    if found is None and (folder / "snapshots" / wanted.revision).is_dir():
        return folder / "snapshots" / wanted.revision
    return found


def _revisions(folder: Path) -> Iterator[tuple[str, Path]]:
    """(revision, snapshot) of a repository's folder: its branches and tags, then bare commits."""
    snapshots = {path.name: path for path in sorted((folder / "snapshots").glob("*"))}
    named = set()
    for ref in sorted(path for path in (folder / "refs").rglob("*") if path.is_file()):
        commit = ref.read_text(encoding="utf-8", errors="replace").strip()
        if commit in snapshots:
            named.add(commit)
            yield ref.relative_to(folder / "refs").as_posix(), snapshots[commit]
    for commit, path in snapshots.items():
        if commit not in named:
            yield commit, path


def _cache_home() -> Path:
    try:
        return cache_home()
    except RuntimeError:
        raise HubError("models by name need a home folder: set HOME or XDG_CACHE_HOME") from None
