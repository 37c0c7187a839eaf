"""Names of the models in the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgevae
from edgevae import zoo
from edgevae.cli import main


def test_the_default_is_the_first_and_has_a_name() -> None:
    assert zoo.shipped()[0] == zoo.DEFAULT
    assert edgevae.load().spec.path == edgevae.load(zoo.DEFAULT).spec.path == str(zoo.path_of(None))


def test_all_files_together_stay_small() -> None:
    assert sum(zoo.path_of(name).stat().st_size for name in zoo.shipped()) < 30e6


def test_a_name_wins_over_a_file_and_a_path_over_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(zoo.DEFAULT).touch()
    assert zoo.path_of(zoo.DEFAULT).parent == zoo.FOLDER
    assert zoo.path_of(Path(zoo.DEFAULT)) == zoo.path_of(zoo.DEFAULT)
    assert zoo.path_of(tmp_path / zoo.DEFAULT) == tmp_path / zoo.DEFAULT
    Path("mine").touch()
    assert zoo.path_of("mine") == Path("mine")


def test_a_name_that_is_none() -> None:
    with pytest.raises(edgevae.ModelFileError, match="neither a file nor a shipped model; wanted one of"):
        edgevae.load("fool")


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--shipped"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in zoo.shipped())
    assert main(["info", "--shipped", "--json"]) == 0
    assert [each["shipped_as"] for each in json.loads(capsys.readouterr().out)] == zoo.shipped()
    assert main(["info", "full", "--shipped"]) == 2
    assert "leave out full" in capsys.readouterr().err
