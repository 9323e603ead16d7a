"""The program as people and scripts use it: what goes where, exit codes, Ctrl-C, pipes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from llama_cu import LLM, SamplingParams, __version__
from llama_cu.checkpoint.config import load_config
from llama_cu.cli.chat import run_chat
from llama_cu.cli.chat_input import open_history
from llama_cu.cli.info import ask
from llama_cu.cli.main import run
from llama_cu.kv_cache import kv_bytes_per_token
from llama_cu.ops.cuda_kernels import default_cache_dir


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run llama-cu in this process: cli("story", stdin="...") -> (code, stdout, stderr)."""

    def call(*args: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(args)
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def on_byte_model(byte_model):
    return ("--model", str(byte_model), "--device", "cpu")


def chat_lines(cli, on_byte_model, *lines, extra=()):
    return cli("chat", *on_byte_model, *extra, stdin="".join(f"{line}\n" for line in lines))


def test_help_lists_the_commands_and_imports_nothing_heavy(program_environment):
    code = (
        "import sys; from llama_cu.cli.main import run; code = run(['--help']); "
        "heavy = {'numpy', 'tokenizers', 'safetensors', 'jinja2', 'prompt_toolkit', 'cupy'}; "
        "sys.exit(code or ', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=program_environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    commands = ("story", "chat", "generate", "serve", "pull", "models", "rm", "quantize")
    for command in (*commands, "perplexity", "kernels", "bench", "info"):
        assert f"\n  {command} " in done.stdout


def test_no_arguments_show_the_help(cli):
    assert cli() == cli("--help")


def test_version(cli):
    assert cli("--version") == (0, f"llama-cu {__version__}\n", "")


def test_a_story_goes_to_stdout_and_its_numbers_to_stderr(cli, on_byte_model):
    args = ("story", "A fox", *on_byte_model, "--max-tokens", "9", "--temperature", "0")
    code, out, err = cli(*args)
    assert code == 0
    assert out.startswith("A fox") and out.endswith("\n") and len(out) > len("A fox\n")
    assert "5 prompt tokens | 9 generated | first after" in err
    assert "tok/s | cpu (NumPy), float32 | cut: --max-tokens" in err
    assert err.count("\n") == 1


def test_a_story_is_the_text_that_the_library_gives(cli, byte_model, on_byte_model):
    llm = LLM(byte_model, device="cpu")
    params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=40, seed=5)
    (output,) = llm.generate(["A fox"], params)
    _, out, _ = cli("story", "A fox", *on_byte_model, "--max-tokens", "40", "--seed", "5")
    assert out.removesuffix("\n") == ("A fox" + output.text).removesuffix("\n")


def test_a_full_context_is_named(cli, byte_model):
    args = ("--model", str(byte_model), "--device", "cpu", "--max-model-len", "12")
    code, out, _ = cli("generate", *args, "--prompt", "0123456789", "--max-tokens", "50", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["finish_reason"] == "length" and len(answer["token_ids"]) == 2


def test_device_auto_says_what_it_took(cli, byte_model):
    _, _, err = cli("story", "--model", str(byte_model), "--max-tokens", "2")
    assert err.startswith("device: cpu, because" if "cpu (NumPy)" in err else "device: cuda")


def test_kernels_say_what_to_set_where_cupy_cannot_write_its_cache(program_environment):
    pytest.importorskip("cupy_backends")
    kept = {k: v for k, v in program_environment.items() if k != "CUPY_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-m", "llama_cu", "kernels"],
        capture_output=True,
        text=True,
        env={**kept, "HOME": "/dev/null/nobody"},
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "NVRTC could not be loaded" in done.stderr and "set CUPY_CACHE_DIR" in done.stderr


@pytest.mark.parametrize("name", ["f16", "float16", "bf16"])
def test_dtype_has_short_names(cli, on_byte_model, name):
    _, out, _ = cli(
        "generate", *on_byte_model, "--prompt", "x", "--max-tokens", "1", "--dtype", name, "--json"
    )
    assert json.loads(out)["dtype"] == {"bf16": "bfloat16"}.get(name, "float16")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("story", "--model", "no/such/folder"), 1, "no/such/folder"),
        (("story", "--model", "~nobody-here/x"), 1, "~nobody-here/x: expected a folder"),
        (("story", "--top-p", "7"), 2, "top_p must be in (0, 1], got 7.0"),
        (("story", "--top-k", "many"), 2, "--top-k"),
        (("story", "--no-such-option"), 2, "--no-such-option"),
        (("sing",), 2, "sing"),
        (("generate",), 2, "give either --prompt or --prompt-ids"),
        (("generate", "--prompt", "a", "--prompt-ids", "1"), 2, "give either --prompt or"),
        (("generate", "--prompt-ids", "1,two"), 2, "--prompt-ids must be token ids"),
        (("generate", "--prompt-ids", "1,,2"), 2, "--prompt-ids must be token ids"),
        (("kernels", "--arch", "sm_1"), 2, "--arch must be one of sm_"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(cli, args, code, message):
    if args[0] == "kernels":
        pytest.importorskip("cupy_backends", exc_type=ImportError)
    got, out, err = cli(*args)
    assert (got, out) == (code, "")
    assert err.startswith("llama-cu: error: ") and err.count("\n") == 1
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("where", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(cli, where):
    args = ["story", "--model", "no/such/folder"]
    code, _, err = cli(*args[:where], "--debug", *args[where:])
    assert code == 1
    assert err.startswith("Traceback") and "ModelError" in err
    assert err.splitlines()[-1].startswith("llama-cu: error: ")


@pytest.mark.parametrize("command", [("story",), ("generate", "--prompt", "a"), ("bench",)])
def test_a_model_without_a_name_is_refused(cli, command):
    code, out, err = cli(*command, "--model", "")
    assert (code, out) == (1, "")
    expected = "expected a folder, a .gguf file, or a name"
    assert err == f"llama-cu: error: the model's name is empty: {expected}\n"
    with pytest.raises(ValueError, match="model must be a path or a name, got ''"):
        LLM("")


def test_wrong_device_and_dtype_are_named(cli, byte_model):
    code, _, err = cli("story", "--model", str(byte_model), "--device", "tpu")
    assert code == 2 and "device must be one of auto, cpu, cuda, got 'tpu'" in err
    code, _, err = cli("story", "--model", str(byte_model), "--dtype", "f8")
    assert code == 2 and "dtype must be auto or one of" in err and "'f8'" in err


def test_generate_prints_the_text_alone(cli, on_byte_model):
    args = (*on_byte_model, "--prompt", "A fox", "--max-tokens", "6", "--temperature", "0")
    code, out, err = cli("generate", *args)
    _, as_json, _ = cli("generate", *args, "--json")
    assert (code, err) == (0, "")
    assert out == json.loads(as_json)["text"] + "\n"


def test_generate_json_says_all(cli, byte_model, on_byte_model):
    args = ("--prompt", "A fox", "--max-tokens", "6", "--seed", "3", "--logprobs", "2", "--json")
    _, out, _ = cli("generate", *on_byte_model, *args)
    answer = json.loads(out)
    assert set(answer) == {
        "text",
        "token_ids",
        "prompt_token_ids",
        "finish_reason",
        "timings",
        "model",
        "device",
        "dtype",
        "logprobs",
    }
    assert answer["finish_reason"] == "length" and answer["model"] == str(byte_model)
    assert len(answer["token_ids"]) == 6 and len(answer["prompt_token_ids"]) == 5
    assert answer["timings"]["generated_tokens"] == 6
    assert answer["timings"]["total_s"] >= answer["timings"]["time_to_first_token_s"] > 0
    for token_id, logprobs in zip(answer["token_ids"], answer["logprobs"], strict=True):
        assert str(token_id) in logprobs and len(logprobs) in (2, 3)


def test_the_three_ways_to_give_a_prompt_agree(cli, on_byte_model):
    same = (*on_byte_model, "--max-tokens", "6", "--temperature", "0", "--json")
    _, by_text, _ = cli("generate", *same, "--prompt", "A fox\n")
    _, by_stdin, _ = cli("generate", *same, "--prompt", "-", stdin="A fox\n\n")
    ids = json.loads(by_text)["prompt_token_ids"]
    _, by_ids, _ = cli("generate", *same, "--prompt-ids", ",".join(map(str, ids)))
    answers = [json.loads(out)["token_ids"] for out in (by_text, by_stdin, by_ids)]
    assert answers[0] == answers[1] == answers[2]


def test_a_model_without_tokenizer_answers_in_ids(cli, tmp_path):
    from checkpoints import random_checkpoint

    random_checkpoint(tmp_path)
    args = ("--model", str(tmp_path), "--device", "cpu", "--max-tokens", "4")
    code, out, _ = cli("generate", *args, "--prompt-ids", "5, 7,11")
    assert code == 0 and 1 <= len([int(part) for part in out.split(",")]) <= 4
    code, _, err = cli("generate", *args, "--prompt", "text")
    assert code == 2 and "tokenizer.json" in err
    code, _, err = cli("chat", "--model", str(tmp_path), "--device", "cpu")
    assert code == 2 and "chat needs a tokenizer" in err


def test_stop_is_repeatable(cli, on_byte_model):
    args = (*on_byte_model, "--prompt", "A fox", "--max-tokens", "30", "--temperature", "0")
    _, out, _ = cli("generate", *args)
    text = out[:-1]
    stops = (text[3], text[5])
    _, stopped, _ = cli("generate", *args, "--stop", stops[0], "--stop", stops[1], "--json")
    first = min(text.index(stop) for stop in stops)
    assert json.loads(stopped)["text"] == text[:first]
    assert json.loads(stopped)["finish_reason"] == "stop"


def test_a_chat_in_a_pipe_answers_and_shows_no_prompt(cli, on_byte_model):
    code, out, err = chat_lines(cli, on_byte_model, "Hello", extra=("--max-tokens", "8"))
    assert code == 0
    assert out.endswith("\n") and "> " not in out and "Hello" not in out
    assert err == "cut at max_tokens; /set max_tokens N\n"


def test_a_chat_prefills_only_the_new_turn(cli, on_byte_model):
    extra = ("--max-tokens", "8", "--temperature", "0")
    _, _, err = chat_lines(
        cli, on_byte_model, "Tell me of the sea", "/stats", "And of the wind", "/stats", extra=extra
    )
    prompts = [line for line in err.splitlines() if line.startswith("last prompt")]
    (first, none), (second, reused) = ([int(s) for s in p.split() if s.isdigit()] for p in prompts)
    assert none == 0 and second > first
    assert first - 16 < reused < second


def test_chat_commands_do_what_they_say(cli, on_byte_model, tmp_path):
    file = tmp_path / "chat.json"
    code, out, err = chat_lines(
        cli,
        on_byte_model,
        "/system Be kind.",
        "One",
        "Two",
        "/undo",
        "/set temperature 0",
        "/set max_tokens=4",
        f"/save {file}",
        "/clear",
        f"/load {file}",
        "/regen",
        "/help",
        "/exit",
        extra=("--max-tokens", "5"),
    )
    assert code == 0 and out.count("\n") >= 3
    for line in ("system: Be kind.", "taken back: Two", "temperature = 0.0", "max_tokens = 4"):
        assert line in err
    assert f"saved 1 turn to {file}" in err and "all turns forgotten" in err
    assert f"loaded 1 turn from {file}" in err and "/quit" in err
    assert max(map(len, err.replace(str(file), "").splitlines())) <= 40
    saved = json.loads(file.read_text())
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant"]
    assert saved["options"]["max_tokens"] == 4


def test_a_failed_chat_command_says_so_and_the_chat_goes_on(cli, on_byte_model, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    code, out, err = chat_lines(
        cli,
        on_byte_model,
        "/sing",
        "/undo",
        "/regen",
        "/set top_p 2",
        f"/load {tmp_path / 'bad.json'}",
        f"/load {tmp_path / 'absent.json'}",
        "Hello",
        "quit",
        "never read",
        extra=("--max-tokens", "3"),
    )
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(errors) == 6
    assert "there is no command /sing" in errors[0] and "top_p must be in (0, 1]" in errors[3]
    assert "is not a saved chat" in errors[4] and "absent.json" in errors[5]
    assert out.count("\n") >= 1 and "Traceback" not in err


def test_a_home_folder_of_nobody_does_not_end_the_chat(cli, on_byte_model):
    code, _, err = chat_lines(cli, on_byte_model, "/load ~nobody-here/x", "/save ~nobody-here/x")
    assert code == 1
    assert "No such file or directory: '~nobody-here/x'" in err
    assert "~nobody-here is not a folder" in err


def test_a_chat_drops_turns_where_the_cache_is_smaller_than_the_context(byte_model, monkeypatch):
    per_token = kv_bytes_per_token(load_config(byte_model), 4)
    llm = LLM(byte_model, device="cpu", kv_cache_bytes=160 * per_token)
    assert llm.context_len == 160 < llm.max_model_len
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello there\n" * 6))
    assert run_chat(llm, model="m", system=None, options={"max_tokens": 20, "seed": 2}) == 0


def test_regen_with_a_fixed_seed_is_another_answer(cli, on_byte_model, tmp_path):
    file = tmp_path / "chat.json"
    answers = []
    for regens in (0, 1, 1):
        file.unlink(missing_ok=True)
        lines = ["Hello", *["/regen"] * regens, f"/save {file}"]
        extra = ("--max-tokens", "12", "--seed", "1")
        chat_lines(cli, on_byte_model, *lines, extra=extra)
        answers.append(json.loads(file.read_text())["messages"][1]["content"])
    assert answers[0] != answers[1] == answers[2]


def test_a_full_context_drops_the_oldest_turns_and_never_crashes(cli, on_byte_model):
    lines = [f"This is message number {number}." for number in range(12)]
    extra = ("--max-model-len", "192", "--max-tokens", "10")
    code, _, err = chat_lines(cli, on_byte_model, *lines, "/stats", extra=extra)
    assert code == 0
    assert "the context is full: the oldest 1 turn dropped" in err
    assert "turns: 12 (" in err and "turns: 12 (0 dropped)" not in err


def test_a_message_that_cannot_fit_is_refused(cli, on_byte_model):
    extra = ("--max-model-len", "128", "--max-tokens", "5")
    code, _, err = chat_lines(cli, on_byte_model, "Hi", "long " * 60, "Hi", "/stats", extra=extra)
    assert code == 1
    assert "error: the message is too long:" in err and "the context holds 128" in err
    assert "turns: 2 (" in err


def test_a_quoted_message_has_many_lines_and_is_no_command(cli, on_byte_model, tmp_path):
    file = tmp_path / "chat.json"
    lines = ['"""/help me', "please", '"""', f"/save {file}"]
    chat_lines(cli, on_byte_model, *lines, extra=("--max-tokens", "3"))
    assert json.loads(file.read_text())["messages"][0]["content"] == "/help me\nplease"


def test_stats_need_no_turn_where_a_template_does(cli, byte_model, tmp_path):
    folder = shutil.copytree(byte_model, tmp_path / "model")
    refusal = "{{ raise_exception('no user') if messages[-1].role == 'system' }}"
    (folder / "chat_template.jinja").write_text(refusal + "{{ messages[-1].content }}")
    args = ("--model", str(folder), "--device", "cpu", "--max-tokens", "2", "--system", "Be kind.")
    code, _, err = cli("chat", *args, stdin="/stats\nhello\n/undo\n/stats\n")
    assert (code, err.count("context: 0 of 4096 tokens")) == (0, 2), err


def test_info_always_answers(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, out, err = cli("info")
    assert (code, err) == (0, "")
    facts = json.loads(cli("info", "--json")[1])
    assert list(facts) == list(dict.fromkeys(line[:12].rstrip() for line in out.splitlines()))
    assert facts["llama-cu"] == [__version__]
    assert facts["chat history"] == [str(tmp_path / "llama-cu" / "chat_history")]
    assert all(lines and all(lines) for lines in facts.values())


def test_without_a_home_folder_all_that_needs_none_works(cli, on_byte_model, monkeypatch):
    def nobody(_):
        raise KeyError

    monkeypatch.setattr(pytest.importorskip("pwd"), "getpwuid", nobody)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert cli("generate", *on_byte_model, "--prompt", "a", "--max-tokens", "1")[0] == 0
    code, _, err = cli("models")
    assert code == 1
    assert err == (
        "llama-cu: error: models by name need a home folder: set HOME or XDG_CACHE_HOME\n"
    )
    facts = json.loads(cli("info", "--json")[1])
    needs_one = "compiled kernels need a home folder: set HOME or XDG_CACHE_HOME"
    assert facts["kernel cache"] == [needs_one]
    assert facts["chat history"] == ["there is no home folder: set HOME or XDG_STATE_HOME"]
    assert open_history() is None


def test_compiled_kernels_lie_where_the_user_wants_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "llama-cu" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "llama-cu" / "kernels"


def test_a_broken_probe_is_one_line_of_info():
    def probe():
        raise OSError("the disk\nis gone")

    assert ask(probe) == ["the disk is gone"]


def test_kernels_prints_a_row_for_every_kernel(cli):
    from llama_cu.cli.kernels import table

    rows = [
        {
            "file": "rope",
            "kernel": "rope<float>",
            "registers": 40,
            "spill_bytes": 8,
            "stack_bytes": 0,
            "static_shared_bytes": 1024,
            "warps": 48,
        }
    ]
    title, row, total = table(rows)
    columns = ["kernel", "registers", "spill", "B", "stack", "B", "shared", "B", "warps/SM"]
    assert title.split() == columns
    assert row.split() == ["rope<float>", "40", "8", "0", "1024", "48"]
    assert total == "1 kernels, 1 with spills"


@pytest.mark.parametrize(
    ("registers", "arch", "warps"),
    # 64 Ki registers in four parts: 16 Ki / (32 * 40) = 12 warps each, and so on.
    [(32, 90, 64), (32, 75, 32), (32, 120, 48), (40, 80, 48), (128, 90, 16), (255, 90, 8)],
)
def test_registers_bound_the_warps_of_a_multiprocessor(registers, arch, warps):
    from llama_cu.cli.kernels import resident_warps

    assert resident_warps(registers, arch=arch) == warps


def test_a_reader_that_goes_away_ends_the_program_quietly(byte_model, program_environment):
    args = ["story", "--model", str(byte_model), "--device", "cpu", "--max-tokens", "4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_cu", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=program_environment,
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1) == b"O"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        ("chat <&-", 0, ""),
        ("generate --prompt - <&-", 2, "--prompt - reads stdin, which is closed"),
        ("story --max-tokens 3 >&-", 1, "stdout is closed"),
        ("story --max-tokens 3 2>&-", 0, ""),
        ("generate --prompt a --max-tokens 3 >&-", 1, "stdout is closed"),
        ("chat 0>/dev/null", 1, "stdin cannot be read"),
    ],
)
def test_a_closed_stream_is_no_crash(byte_model, program_environment, command, code, err):
    name, _, rest = command.partition(" ")
    model = f"--model {byte_model} --device cpu"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m llama_cu {name} {model} {rest}"],
        capture_output=True,
        text=True,
        env=program_environment,
        check=False,
        timeout=60,
    )
    assert done.returncode == code
    assert err in done.stderr and "Error" not in done.stderr


@pytest.mark.parametrize("args", [["story", "é日"], ["generate", "--json", "--prompt", "日"]])
def test_a_terminal_that_lacks_a_character_still_gets_the_others(
    byte_model, program_environment, args
):
    options = ["--model", str(byte_model), "--device", "cpu", "--max-tokens", "20", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "llama_cu", *args, *options],
        capture_output=True,
        env={**program_environment, "PYTHONIOENCODING": "ascii"},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert text.startswith("??") if args[0] == "story" else len(json.loads(text)["token_ids"]) > 0


def test_bytes_that_are_no_text_spoil_only_their_own_line(byte_model, program_environment):
    done = subprocess.run(
        [sys.executable, "-m", "llama_cu", "chat", "--model", str(byte_model), "--max-tokens", "2"],
        input=b"Hello\ncaf\xe9\nHello\n/stats\n",
        capture_output=True,
        env={**program_environment, "PYTHONIOENCODING": "utf-8:strict"},
        check=False,
        timeout=60,
    )
    err = done.stderr.decode()
    assert done.returncode == 1 and "turns: 2 (0 dropped)" in err
    assert err.count("error: ") == err.count("error: the text is not valid Unicode") == 1


def test_ctrl_c_ends_a_story_with_what_was_told(byte_model, program_environment):
    args = ["story", "--model", str(byte_model), "--device", "cpu", "--max-tokens", "4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_cu", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=program_environment,
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        told = os.read(process.stdout.fileno(), 100)
        process.send_signal(signal.SIGINT)
        told += process.stdout.read()
        err = process.stderr.read().decode()
        assert process.wait(timeout=60) == 130
    assert told.startswith(b"Once upon a time") and told.endswith(b"\n")
    assert "generated | first after" in err and "Traceback" not in err


def test_python_dash_m_is_the_program(program, byte_model):
    done = program("generate", "--model", str(byte_model), "--prompt", "x", "--max-tokens", "1")
    assert done.returncode == 0 and done.stderr.startswith("device: ")
