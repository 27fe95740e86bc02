"""The image for vast.ai: its recipe, what supervisor runs in it, and the template."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import requires
from pathlib import Path

import packaging
import pytest
import yaml

from common.lifecycle import CONFIGURATION_ERROR
from deploy.setup.lockfile import SERVING, entries, version_of, without_torch
from deploy.vast import template
from deploy.vast.base import BaseImageError, default_base, parse_base
from deploy.vast.build_context import HERE, write_build_context
from deploy.vast.build_image import main as build_image
from deploy.vast.template import TemplateError, load_template

ROOT = HERE.parents[1]
TREE = HERE / "ROOT"
SCRIPTS = sorted(HERE.rglob("*.sh"))
CONFS = sorted((TREE / "etc" / "supervisor" / "conf.d").glob("*.conf"))
LOCK = SERVING.read_text()


def instructions() -> list[str]:
    text = re.sub(r"^#.*\n", "", (HERE / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_base_is_an_argument_with_a_pinned_default() -> None:
    lines = instructions()
    assert lines[1] == "FROM ${BASE}"
    assert lines[0] == f"ARG BASE={default_base().name}"
    assert default_base().torch == version_of("torch", LOCK)


def test_recipe_copies_requirements_then_models_then_sources() -> None:
    copied = [line.split()[1] for line in instructions() if line.startswith("COPY")]
    places = [copied.index(name) for name in ("requirements.txt", "models", "ROOT", "bento")]
    assert places == sorted(places)


def test_image_keeps_base_entrypoint_and_downloads_nothing() -> None:
    kinds = {line.split()[0] for line in instructions()}
    assert not kinds & {"ENTRYPOINT", "CMD", "USER", "ADD", "VOLUME"}
    for script in (TREE / "opt").rglob("*.sh"):
        assert not re.search(r"\b(pip|uv|apt|apt-get|curl|wget|git)\b", script.read_text()), script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_without_findings(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    beside = Path(sys.executable).with_name("shellcheck")
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([found, "-x", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", CONFS, ids=lambda path: path.stem)
def test_supervisor_programs_follow_base_conventions(file: Path) -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
    parser.read(file)
    (section,) = parser.sections()
    assert section == f"program:{file.stem}"
    program = parser[section]
    assert program["environment"] == 'PROC_NAME="%(program_name)s"'
    assert program["command"] == f"/opt/supervisor-scripts/{file.stem}.sh"
    script = TREE / program["command"].lstrip("/")
    assert os.access(script, os.X_OK)
    assert program["autorestart"] == "unexpected"
    assert program["stdout_logfile"] == "/dev/stdout"
    assert program.getboolean("redirect_stderr")
    assert program.getboolean("killasgroup")


def test_configuration_error_is_expected_exit_after_startsecs() -> None:
    for name in ("experimance", "experimance-worker"):
        parser = configparser.RawConfigParser()
        parser.read(TREE / "etc" / "supervisor" / "conf.d" / f"{name}.conf")
        program = parser[f"program:{name}"]
        assert program["exitcodes"] == f"0,{CONFIGURATION_ERROR}"
    script = (TREE / "opt" / "supervisor-scripts" / "experimance.sh").read_text()
    assert f"readonly configuration_error={CONFIGURATION_ERROR}" in script
    past = re.search(r"readonly past_startsecs=(\d+)", script)
    assert past
    parser.read(TREE / "etc" / "supervisor" / "conf.d" / "experimance.conf")
    grace = re.search(r"readonly grace=(\d+)", script)
    assert grace
    assert int(grace[1]) < parser.getint("program:experimance", "stopwaitsecs")
    assert int(past[1]) > parser.getint("program:experimance", "startsecs")


def test_settings_use_instance_disk_and_yield_to_environment(tmp_path: Path) -> None:
    image_env = tmp_path / "image.env"
    image_env.write_text("IMAGE_CATALOG=demo\nIMAGE_FETCH_MISSING=1\n")
    text = (TREE / "opt" / "experimance" / "settings.sh").read_text()
    (tmp_path / "settings.sh").write_text(text.replace("/opt/experimance", str(tmp_path)))

    def environment(**given: str) -> dict[str, str]:
        command = f". {tmp_path}/settings.sh; env"
        clean = {"PATH": os.environ["PATH"], **given}
        said = subprocess.run(
            ["bash", "-c", command], env=clean, capture_output=True, text=True, check=True
        ).stdout
        return dict(line.split("=", 1) for line in said.splitlines())

    plain = environment()
    assert plain["BENTOML_HOME"] == "/workspace/bentoml"
    assert plain["MODELS_DIR"] == "/workspace/models"
    assert (plain["CATALOG"], plain["FETCH_MISSING"]) == ("demo", "1")
    assert (plain["MODEL_SERVER_HOST"], plain["MODEL_SERVER_PORT"]) == ("127.0.0.1", "5001")
    given = environment(WORKSPACE="/disk", CATALOG="mine", MODEL_SERVER_HOST="0.0.0.0")
    assert given["BENTOML_HOME"] == "/disk/bentoml"
    assert given["CATALOG"] == "mine"
    assert given["MODEL_SERVER_HOST"] == "127.0.0.1"


def test_logs_are_rotated_in_place() -> None:
    text = (TREE / "etc" / "logrotate.d" / "experimance").read_text()
    words = text.split()
    assert {"copytruncate", "compress", "missingok", "size", "rotate"} <= set(words)
    assert "/var/log/portal/experimance.log" in words


def test_requirements_exclude_torch_of_the_base() -> None:
    kept = {name for name, _ in entries(without_torch(LOCK))}
    left_out = {name for name, _ in entries(LOCK)} - kept
    assert {"torch", "triton"} <= left_out
    assert {"bentoml", "diffusers", "nvidia-ml-py", "numpy"} <= kept
    torchs = {re.split(r"[\[<>=!~; ]", each)[0].lower() for each in requires("torch") or ()}
    assert {name for name in torchs if name.startswith(("nvidia", "cuda"))} <= left_out
    assert all(re.match(r"torch|triton|cuda-|nvidia-", name) for name in left_out)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with a torch that is not the lock file's."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder / "main", with_pip=True)
    (site,) = (folder / "main").glob("lib/python*/site-packages")
    shutil.copytree(Path(packaging.__file__).parent, site / "packaging")
    wheel(folder, "torch", "2.14.1+cu130")
    for name in ("bentoml", "diffusers", "transformers"):
        wheel(folder, name, "1.0")
    wheel(folder, "torch", "2.14.2")
    wheel(folder, "greedy", "1.0", "torch==2.14.2")
    wheel(folder, "xformers", "0.0.35")
    python = folder / "main" / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", "--no-index", f"--find-links={folder}"]
    subprocess.run([*command, "torch==2.14.1+cu130"], check=True)
    return folder


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A wheel with an empty module."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\n")
        archive.writestr(f"{info}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")


def install(base: Path, requirements: str, xformers: str = "") -> subprocess.CompletedProcess[str]:
    file = base / "requirements.txt"
    file.write_text(requirements)
    settings = {
        "PATH": "/usr/bin:/bin",
        "VENV": str(base / "main"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(base),
        "PIP_CONFIG_FILE": os.devnull,
    }
    command = [HERE / "install" / "install.sh", file, "torch>=2.11,<2.15", xformers]
    return subprocess.run(command, env=settings, capture_output=True, text=True)


def list_packages(base: Path) -> set[str]:
    command = [base / "main" / "bin" / "python", "-m", "pip", "freeze"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.partition(" ")[0].partition("==")[0] for line in said.splitlines()}


@pytest.mark.slow
def test_install_keeps_torch_and_skips_incompatible_xformers(base: Path) -> None:
    done = install(base, "bentoml==1.0\ndiffusers\ntransformers\n", "0.0.35")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "xformers 0.0.35 does not run beside torch==2.14.1+cu130: left out" in done.stdout
    assert {"bentoml", "torch"} <= list_packages(base)
    assert "xformers" not in list_packages(base)


@pytest.mark.slow
def test_a_requirement_of_another_torch_fails_the_build(base: Path) -> None:
    done = install(base, "greedy\n")
    assert done.returncode != 0
    assert "greedy needs torch==2.14.2, there is 2.14.1" in done.stderr
    python = base / "main" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "greedy"], check=True)


@pytest.mark.slow
def test_base_with_unsuitable_torch_fails_the_build(base: Path) -> None:
    script = HERE / "install" / "check_torch.py"
    command = [base / "main" / "bin" / "python", script, "torch>=2.15"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the base image has torch 2.14.1, not torch>=2.15" in done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Bento home with one Bento of one model, as BentoML lays it out."""
    model = tmp_path / "models" / "sdxl-unet" / "abc"
    model.mkdir(parents=True)
    (model / "model.yaml").write_text("name: sdxl-unet\n")
    bento = tmp_path / "bentos" / "experimance-controlnet" / "v1"
    (bento / "src").mkdir(parents=True)
    services = [{"models": [{"tag": "sdxl-unet:abc"}]}, {"models": [{"tag": "sdxl-unet:abc"}]}]
    (bento / "bento.yaml").write_text(yaml.safe_dump({"services": services}))
    return tmp_path


@pytest.mark.parametrize("flavour", ["full", "slim"])
def test_build_context_has_every_copied_path(home: Path, flavour: str) -> None:
    context = home / "context"
    kind = "slim" if flavour == "slim" else "full"
    write_build_context(home, "experimance-controlnet:v1", "demo", kind, context)
    for line in instructions():
        if line.startswith("COPY"):
            for name in (word for word in line.split()[1:-1] if not word.startswith("--")):
                assert (context / name).exists(), line
    model = context / "models" / "sdxl-unet" / "abc" / "model.yaml"
    assert model.exists() == (flavour == "full")
    if flavour == "full":
        assert (context / "models" / "sdxl-unet" / "latest").read_text() == "abc"
        assert model.samefile(home / "models" / "sdxl-unet" / "abc" / "model.yaml")
    assert f"IMAGE_FETCH_MISSING={int(flavour == 'slim')}" in (context / "image.env").read_text()
    assert (context / "worker" / "common" / "lifecycle.py").is_file()
    assert not (context / "worker" / "deploy" / "vast" / "image.py").exists()


@pytest.mark.parametrize(
    ("tag", "host"),
    [
        ("2.11.0-cu128-cuda-12.9-mini-py312-2026-05-01", "cuda_vers>=12.8"),
        ("2.12.0-cu130-cuda-13.2-mini-py313-2026-07-01", "cuda_vers>=13.0"),
        (f"2.14.1-cu130-cuda-13.2-mini-py312-2026-11-20@sha256:{'a' * 64}", "cuda_vers>=13.0"),
    ],
)
def test_hosts_are_sought_by_the_cuda_of_the_base(
    tag: str, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"vastai/pytorch:{tag}"
    assert parse_base(name).host_filter == host
    assert template.main(["--base", name, "entrypoint"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[1])
    assert words[words.index("--search_params") + 1].split().count(host) == 1


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("latest", "not pinned"),
        ("2.14.1-cu130-cuda-13.2-mini-py312", "not pinned"),
        ("2.10.0-cu128-cuda-12.9-mini-py312-2026-05-01", "has torch 2.10.0, and torch<2.15,>=2.11"),
        ("2.12.0-cu126-cuda-12.9-mini-py312-2026-05-01", "CUDA 126; 12.8 is the oldest"),
        ("2.12.0-cu130-cuda-13.2-mini-py310-2026-05-01", "Python 3.10; 3.11 to 3.14 serve"),
    ],
)
def test_a_base_that_does_not_serve_is_refused(
    tag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"vastai/pytorch:{tag}"
    with pytest.raises(BaseImageError, match=re.escape(said)):
        parse_base(name)
    assert build_image(["--catalog", "demo", "--base", name]) == 1
    assert said in capsys.readouterr().err
    assert template.main(["--base", name]) == 1
    assert said in capsys.readouterr().err


def test_image_build_requires_an_existing_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    assert build_image(["--catalog", "absent"]) == 1
    assert "absent" in capsys.readouterr().err


def test_commands_are_printed_for_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert template.main([]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "# entrypoint", "# ssh", "# jupyter", "# serverless",
    ]  # fmt: skip
    for block in blocks:
        words = shlex.split(block.splitlines()[1])
        assert words[:3] == ["vastai", "create", "template"]
        environment = shlex.split(words[words.index("--env") + 1])
        portal = next(word for word in environment if word.startswith("PORTAL_CONFIG="))
        assert portal.startswith("PORTAL_CONFIG=localhost:1111:11111:/:Instance Portal|")
        assert "|localhost:5000:5001:/:Image service" in portal
        assert "5000:5000" in environment
        assert not any("5001" in word for word in environment if word != portal)
        replaced = "--ssh" in words or "--jupyter" in words
        assert ("--onstart-cmd" in words) == replaced


def test_an_unknown_mode_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert template.main(["vpn"]) == 1
    assert "vpn is none of entrypoint, ssh, jupyter, serverless" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("disk_gb: 80", "disk_gb: 5", "disk_gb: Input should be greater than or equal to 20"),
        ("tag: vast-experimance-full", "tag: latest", "tag: latest means another image tomorrow"),
        ("external: 5000", "external: 70000", "portal.1.external"),
        ("ssh: {onstart: entrypoint.sh}", "ssh: {}", "modes.ssh.onstart"),
        ("  - gpu_ram>=24", "  - rm -rf", "search.1"),
        ("LOG_FORMAT: json", 'LOG_FORMAT: "$(id)"', "environment.LOG_FORMAT"),
        ("name: Instance Portal", "name: Portal", "the first entry has to be Instance Portal"),
        ("modes:", "modi: 1\nmodes:", "modi: Extra inputs are not permitted"),
    ],
)
def test_a_bad_template_names_the_field(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (HERE / "template.yml").read_text()
    assert old in text
    file = tmp_path / "template.yml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(TemplateError, match=re.escape(said)):
        load_template(file)
