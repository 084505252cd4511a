"""Settings: where they come from, and what is refused."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from services.common.config import ClusterSection, RegistrySection, Section, SettingsError, environment, load


class Limits(Section):
    calls: int = 5
    token: SecretStr = SecretStr("")


class WorkerSection(Section):
    slots: int = Field(default=4, ge=1, le=256)
    label: str = ""
    keys: tuple[SecretStr, ...] = ()
    limits: Limits = Limits()


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    cluster: ClusterSection = ClusterSection()
    registry: RegistrySection = RegistrySection()
    worker: WorkerSection = WorkerSection()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, **environ: str) -> Settings:
    Path("legato.toml").write_text(text, encoding="utf-8")
    return load(Settings, environ=environ)


def test_without_a_file_the_defaults_hold():
    assert load(Settings, environ={}) == Settings()


def test_the_file_is_read_and_sections_of_others_are_left_alone():
    settings = read("[cluster]\nname = 'c1'\n[worker]\nslots = 8\nlimits = {calls = 9}\n[gateway]\nanything = 1")
    assert settings.cluster.name == "c1"
    assert settings.worker == WorkerSection(slots=8, limits=Limits(calls=9))


def test_a_variable_names_the_file(folder: Path):
    (folder / "other.toml").write_text("[cluster]\nname = 'c2'")
    assert load(Settings, environ={"LEGATO_CONFIG": str(folder / "other.toml")}).cluster.name == "c2"


def test_what_clients_read_is_no_setting():
    named = {"LEGATO_ADDRESS": "gw:8001", "LEGATO_HTTP": "gw:8000", "LEGATO_PROGRAM_ID": "p"}
    named |= {"LEGATO_TENANT": "t", "LEGATO_WORKFLOW": "w"}
    assert read("", **named) == read("")


def test_variables_override_the_file():
    endpoints = '["a:1", "b:2"]'
    settings = read("[worker]\nslots = 8", LEGATO_WORKER__SLOTS="9", LEGATO_REGISTRY__ENDPOINTS=endpoints)
    assert settings.worker.slots == 9
    assert settings.registry.endpoints == ("a:1", "b:2")


@pytest.mark.parametrize("text", ["12345", "true", '"quoted"', "[1]", "1979-05-27", ""])
def test_a_text_setting_takes_a_variable_as_it_stands(text: str):
    settings = read("", LEGATO_REGISTRY__PASSWORD=text, LEGATO_WORKER__LABEL=text)
    assert settings.registry.password.get_secret_value() == text
    assert settings.worker.label == text


def test_a_child_process_gets_the_same_values():
    overrides: dict[str, object] = {"worker.label": "1", "worker.slots": 7, "registry.endpoints": ["a:1"]}
    settings = load(Settings, environ=environment(overrides))
    assert (settings.worker.label, settings.worker.slots, settings.registry.endpoints) == ("1", 7, ("a:1",))


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("[clutser]", {}, "unknown section [clutser]; did you mean cluster?"),
        ("[worker]\nslotz = 1", {}, "[worker] slotz: unknown setting; did you mean slots?"),
        ("[worker.limits]\ncals = 1", {}, "[worker] limits.cals: unknown setting; did you mean calls?"),
        ("", {"LEGATO_WORKR__SLOTS": "1"}, "variable LEGATO_WORKR__SLOTS: section workr; did you mean worker?"),
        ("", {"LEGATO_WORKER__SLOTZ": "1"}, "[worker] slotz: unknown setting; did you mean slots?"),
        ("", {"LEGATO_SLOTS": "1"}, "variable LEGATO_SLOTS: expected LEGATO_<SECTION>__<FIELD>"),
        ("[worker]\nslots = 0", {}, "[worker] slots: Input should be greater than or equal to 1, got 0"),
        ("", {"LEGATO_WORKER__SLOTS": "many"}, "got 'many'"),
        ("worker = 3", {"LEGATO_WORKER__SLOTS": "1"}, "section [worker] must be a table"),
        ("worker = 3", {}, "[worker]: "),
        ("[worker", {}, "legato.toml: "),
    ],
)
def test_what_is_wrong_is_refused_by_name(text: str, environ: dict[str, str], said: str):
    with pytest.raises(SettingsError) as caught:
        read(text, **environ)
    assert said in str(caught.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SettingsError) as caught:
        read("[worker]\nslots = 0\nlabel = 1\n[cluster]\nnam = 'x'")
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_is_not_text_is_refused(folder: Path):
    (folder / "legato.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"legato.toml"):
        load(Settings, environ={})


@pytest.mark.parametrize(
    "text",
    [
        "[registry]\npassword = ['hunter2']",
        "[registry]\npassword = {text = 'hunter2'}",
        "[registry]\npasword = 'hunter2'",
        "[worker]\nkeys = 'hunter2'",
        "[worker]\nkeys = [['hunter2']]",
        "[worker.limits]\ntoken = [ 'hunter2' ]",
        "[worker]\nlimits = 'hunter2'",
        "registry = 'hunter2'",
        "registry = ['hunter2']",
    ],
)
def test_no_secret_is_in_a_message(text: str):
    with pytest.raises(SettingsError) as caught:
        read(text)
    assert "hunter2" not in str(caught.value)


def test_a_number_for_a_password_is_not_repeated():
    with pytest.raises(SettingsError) as caught:
        read("[registry]\npassword = 424242")
    assert "424242" not in str(caught.value)
