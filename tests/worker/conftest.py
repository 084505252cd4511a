"""A tiny model for the worker's tests."""

from pathlib import Path

import pytest

from services.worker import tiny_model


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny-llama"
    tiny_model.make(path)
    return path
