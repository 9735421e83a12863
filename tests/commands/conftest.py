"""Commands called in this process."""

import importlib.util

import pytest

from tests import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(script, words) -> (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(script, *words):
        spec = importlib.util.spec_from_file_location(script, ROOT / "launch" / f"{script}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module.devices, "configure", lambda **_: None)
        code = 0
        try:
            module.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call
