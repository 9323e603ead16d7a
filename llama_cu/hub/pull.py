"""Fetches a model: the files of a repository that are read, and no others, each of them checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llama_cu.errors import BackendUnavailable, HubError
from llama_cu.hub.names import CONFIG_FILES, INDEX, SINGLE, HubName
from llama_cu.hub.store import (
    hub_cache,
    name_commit,
    place_blob,
    repo_folder,
    weight_files,
)

Tell = Callable[[str], None]
Progress = Callable[[str, int, int], None]

_READ_BYTES = 16 << 20


class Unreachable(HubError):
    """No hub answered."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; the hub tells the SHA-256 of large ones."""

    name: str
    num_bytes: int
    sha256: str | None


def pull(name: HubName, *, tell: Tell, progress: Progress) -> Path:
    """Fetch what is not here yet, and return the path to load.

    What was interrupted goes on where it stopped. A file is in its place only when it is whole and
    its checksum, where the hub tells one, is right; the name means the model only when all files
    are there. `progress` is told of each file's bytes. HubError says what went wrong and with which
    repository or file; BackendUnavailable that huggingface_hub is not installed.
    """
    hub = _library()
    with _hub_errors(hub, name):
        info = hub.HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
    files = {file.name: file for file in map(_remote_file, info.siblings)}
    wanted = _wanted(files, name)
    fetch = _Fetch(hub, name, info.sha, progress)
    paths = [fetch(file) for file in wanted if file.name != SINGLE]
    if INDEX in {file.name for file in wanted}:
        index = paths[[file.name for file in wanted if file.name != SINGLE].index(INDEX)]
        shards = weight_files(index)
        absent = [shard for shard in shards if shard not in files]
        if absent:
            raise HubError(f"{name}: its index names {absent[0]}, which it does not have")
        weights = [files[shard] for shard in shards]
    else:
        weights = [file for file in wanted if file.name == SINGLE]
    tell(f"{name}: {sum(file.num_bytes for file in (*wanted, *weights)) / 2**20:.1f} MiB")
    paths += [fetch(file) for file in weights]
    name_commit(name, info.sha)
    if name.file is not None:
        return paths[0]
    if "tokenizer.json" not in files:
        tell(f"{name} has no tokenizer.json: it can be given token ids, and no text")
    return paths[0].parent


def _wanted(files: dict[str, RemoteFile], name: HubName) -> list[RemoteFile]:
    """The files to fetch before those that an index names."""
    if name.file is not None:
        if name.file not in files:
            raise HubError(f"{name.repo} has no {name.file}{_ggufs(files, name)}")
        return [files[name.file]]
    weights = next((each for each in (INDEX, SINGLE) if each in files), None)
    if "config.json" not in files or weights is None:
        lacks = "config.json" if "config.json" not in files else f"{SINGLE} or {INDEX}"
        raise HubError(f"{name.repo} has no {lacks}{_ggufs(files, name)}")
    return [files[each] for each in (*CONFIG_FILES, weights) if each in files]


def _ggufs(files: dict[str, RemoteFile], name: HubName) -> str:
    """What to ask for instead, where a repository has GGUF files."""
    found = sorted(each for each in files if each.endswith(".gguf"))
    return f"; it has {', '.join(f'{name.repo}/{each}' for each in found)}" if found else ""


class _Fetch:
    """Brings single files into the hub's cache; what is there already stays."""

    def __init__(self, hub: Any, name: HubName, commit: str, progress: Progress) -> None:
        self.hub = hub
        self.name = name
        self.commit = commit
        self.progress = progress

    def __call__(self, file: RemoteFile) -> Path:
        where = {"revision": self.commit, "cache_dir": hub_cache()}
        here = self.hub.try_to_load_from_cache(self.name.repo, file.name, **where)
        if isinstance(here, str):
            return Path(here)
        with _hub_errors(self.hub, self.name):
            if file.sha256 is not None:
                return self._fetch_large(file, file.sha256)
            return Path(self.hub.hf_hub_download(self.name.repo, file.name, **where))

    def _fetch_large(self, file: RemoteFile, sha256: str) -> Path:
        """The library's own download begins a file anew after each interruption; this goes on."""
        blob = repo_folder(self.name.repo) / "blobs" / sha256
        part = blob.with_name(f"{sha256}.incomplete")
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self.hub.utils.WeakFileLock(blob.with_name(f"{sha256}.lock")):
            if not blob.exists():
                self._download(file, part)
                self.progress(f"checking {file.name}", 0, 0)
                if _sha256(part) != sha256:
                    part.unlink()
                    raise HubError(f"{file.name}: it came damaged: its SHA-256 is not {sha256}")
                part.replace(blob)
        return place_blob(blob, self.name.repo, self.commit, file.name)

    def _download(self, file: RemoteFile, part: Path) -> None:
        """Append to `part` until it is whole, also over connections that break."""
        url = self.hub.hf_hub_url(self.name.repo, file.name, revision=self.commit)
        with part.open("ab") as out:
            while True:
                start = out.tell()
                try:
                    self._append(file, url, out)
                except self.hub.errors.HfHubHTTPError:
                    raise
                except (self.hub.errors.HTTPError, ConnectionError):
                    if out.tell() == start:
                        raise
                if out.tell() >= file.num_bytes:
                    return
                if out.tell() == start:
                    raise HubError(
                        f"{file.name}: expected {file.num_bytes} bytes, the hub sent {start}"
                    )

    def _append(self, file: RemoteFile, url: str, out: BinaryIO) -> None:
        start = out.tell()
        if start >= file.num_bytes:
            return
        headers = self.hub.utils.build_hf_headers()
        if start:
            headers["Range"] = f"bytes={start}-"
        session = self.hub.utils.get_session()
        with session.stream("GET", url, headers=headers, follow_redirects=True) as response:
            self.hub.utils.hf_raise_for_status(response)
            if start and response.status_code != 206:  # it sends all of it again
                out.seek(0)
                out.truncate()
            for piece in response.iter_bytes():
                out.write(piece)
                self.progress(file.name, out.tell(), file.num_bytes)


@contextmanager
def _hub_errors(hub: Any, name: HubName) -> Iterator[None]:
    """Turns the library's errors into HubError, each with what can be done."""
    errors = hub.errors
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/{name.repo}"
        how = f"accept its terms on {page} and log in with `hf auth login` or HF_TOKEN"
        raise HubError(f"{name}: {how}") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{name.repo} has no revision {name.revision}") from error
    except errors.RepositoryNotFoundError as error:
        how = "there is no such repository, or it is private: log in with `hf auth login`"
        raise HubError(f"{name}: {how}") from error
    except errors.HfHubHTTPError as error:
        raise HubError(f"{name}: {_first_line(error)}") from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError, ConnectionError) as error:
        raise Unreachable(f"{name}: the hub cannot be reached: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _remote_file(sibling: Any) -> RemoteFile:
    lfs = sibling.lfs
    return RemoteFile(sibling.rfilename, sibling.size or 0, None if lfs is None else lfs.sha256)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _library() -> Any:
    try:
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "huggingface_hub is not installed: pip install 'llama-cu[pull]'"
        ) from error
    hub: Any = huggingface_hub
    hub.utils.disable_progress_bars()  # those of small files; large ones have ours
    return hub
