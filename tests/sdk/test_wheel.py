"""What is installed by `pip install legato`, and what importing it brings along."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Names of modules that a fresh process has after `import legato.cli` and did not have before.
IMPORTED = """
import sys
before = set(sys.modules)
import legato.cli
print("\\n".join(sorted(
    name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names
)))
"""


def test_the_wheel_holds_the_sdk_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"  # setuptools leaves files where it builds
    shutil.copytree(ROOT / "legato", source / "legato", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "services", source / "services", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "*.pyi", "py.typed")
        for path in (ROOT / "legato").rglob(pattern)
    }
    assert files == expected
    assert {"legato/py.typed", "legato/v1/gateway_pb2.pyi", "legato/v1/gateway_pb2_grpc.py"} <= files


def test_importing_the_sdk_imports_its_dependencies_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", IMPORTED]
    # From another folder, so that only what is installed or named by PYTHONPATH can be found.
    environ = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environ).stdout
    packages = {name.partition(".")[0] for name in output.split()}
    # grpc itself looks for its companions and imports those that are installed.
    companions = {"grpc_health", "grpc_reflection", "grpc_status", "grpc_tools", "cython_runtime"}
    allowed = {"legato", "grpc", "google", "typing_extensions"} | companions
    assert {name for name in packages if not name.startswith("_cython")} <= allowed
    google = {".".join(name.split(".")[:2]) for name in output.split() if name.startswith("google.")}
    assert google <= {"google._upb", "google.protobuf", "google.rpc"}
