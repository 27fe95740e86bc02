"""Package indexes and certificates of this machine, mounted into an image build."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from deploy.container import build_mounts as host
from deploy.setup.pip_settings import parse_pip_settings


def write_mounts(folder: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> dict[str, str]:
    """The mounts of the build, by target, for pip's settings as `pip config list` says them."""
    listed = parse_pip_settings("\n".join(settings))
    monkeypatch.setattr(host, "read_pip_settings", lambda python: listed)
    content = tomllib.loads(host.containers_conf(folder).read_text())
    volumes = [volume.split(":") for volume in content["containers"]["volumes"]]
    assert {mode for _, _, mode in volumes} == {"ro"}
    return {target: source for source, target, _ in volumes}


def test_local_folders_are_mounted_and_configs_use_mount_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, wheels = tmp_path / "index" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    mounts = write_mounts(
        tmp_path,
        monkeypatch,
        f"global.extra-index-url='{index.as_uri()} https://packages.example/simple'",
        f"global.find-links='{wheels}'",
    )
    assert mounts["/mnt/packages-0"] == str(index.parent), "what its pages link to lies beside it"
    assert mounts["/mnt/packages-1"] == str(wheels)
    uv = tomllib.loads((tmp_path / "uv.toml").read_text())
    assert uv["extra-index-url"] == [
        "file:///mnt/packages-0/simple",
        "https://packages.example/simple",
    ]
    assert uv["find-links"] == ["/mnt/packages-1"]
    assert str(tmp_path) not in (tmp_path / "pip.conf").read_text()


def test_the_environment_overrides_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mounts(
        tmp_path,
        monkeypatch,
        ":env:.index-url='https://b.example/simple'",
        ":env:.no-index='1'",
        "global.index-url='https://a.example/simple'",
    )
    uv = tomllib.loads((tmp_path / "uv.toml").read_text())
    assert uv["index-url"] == "https://b.example/simple"
    assert uv["no-index"] is True
    assert "a.example" not in (tmp_path / "pip.conf").read_text()


def test_certificates_of_the_machine_take_the_place_of_debians(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.touch()
    mounts = write_mounts(tmp_path, monkeypatch, f"global.cert='{bundle}'")
    assert mounts["/etc/ssl/certs/ca-certificates.crt"] == str(bundle)
    assert tomllib.loads((tmp_path / "uv.toml").read_text())["system-certs"] is True
