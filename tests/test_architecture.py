"""The house keeps its shape: layers, homes of heavy packages, no cycles, nothing at import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import serengeti_etl

ROOT = Path(serengeti_etl.__file__).parent

# Imports go one way: a module may import from its own and earlier layers.
LAYERS = (
    ("ahead", "axis", "daemon_pool", "errors", "stages", "templates", "versions"),
    ("label_config",),
    ("config",),
    ("retry",),
    ("buckets", "files"),
    ("storage",),
    ("lease", "web", "worker_plugins"),
    ("cluster", "drawing", "runs", "sample"),
    ("catalog",),
    ("dataset",),
    ("convert", "load"),
    ("train",),
    ("evaluate",),
    ("text_table",),
    ("export", "label_catalog"),
    ("predict",),
    ("submit",),
    ("report",),
    ("browse", "demo", "evaluation_tables", "label_tables", "run_tables", "tables"),
    ("watch",),
    ("cli",),
    ("__main__",),
)

HOMES = {
    "dask": {"cluster.py"},
    "distributed": {"cluster.py", "worker_plugins.py"},
    "duckdb": {"catalog/database.py"},
    "frictionless": {"catalog/camtrap_dp/schema.py"},
    "pyvips": {"convert/resize.py"},
    "timm": {"train/timm_networks.py"},
    "webdataset": {"load/webdataset.py"},
    "safetensors": {"predict/read_model.py", "submit/model_folder.py", "train/weights.py"},
    "torchvision": {"load/nvjpeg.py", "train/model.py"},
    "simplejpeg": {"convert/plain_jpeg.py", "load/decode.py", "train/showcase.py"},
    "PIL": {
        "sample.py",
        "drawing/animals.py",
        "drawing/landscape.py",
        "drawing/photograph.py",
    },
    "tenacity": {"retry.py"},
    "obstore": {"buckets/bucket.py", "buckets/client.py", "buckets/faults.py"},
    "botocore": {"buckets/client.py"},
    "fsspec": {"files.py", "storage.py"},
    "apprise": {"runs/apprise_channel.py"},
    "click": {
        "cli/alerting.py",
        "cli/boards.py",
        "cli/browse.py",
        "cli/codes.py",
        "cli/conversion.py",
        "cli/demo.py",
        "cli/inference.py",
        "cli/labels.py",
        "cli/main.py",
        "cli/options.py",
        "cli/report.py",
        "cli/serving.py",
        "cli/supervision.py",
        "cli/telling.py",
        "cli/training.py",
        "cli/watching.py",
    },
    "jinja2": {"templates.py"},
    "mlflow": {"runs/trackers/mlflow.py"},
    "tensorboard": {"runs/trackers/tensorboard.py"},
    "psutil": {"runs/processes.py"},
    "rich": {"text_table.py"},
    "tornado": {"web/server.py"},
    "tqdm": {"cli/progress.py"},
}
TORCH_ROOMS = ("load/", "train/", "evaluate/")
INFERENCE_ROOMS = ("predict/", "submit/")
SHARED = {f"serengeti_etl.convert.{name}" for name in ("fetch", "resize")}
"""What inference shares with the converting half: a photograph is fetched and prepared alike."""


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name_of(path)} has a relative import"
            yield node.module


def layer_of(module: str) -> int:
    part = module.removeprefix("serengeti_etl.").split(".")[0]
    return next(at for at, names in enumerate(LAYERS) if part in names)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_to_the_same_or_an_earlier_layer(path: Path) -> None:
    """No module imports from a layer above its own."""
    if path == ROOT / "__init__.py":
        pytest.skip("the public names reach every layer, lazily")
    own = layer_of(name_of(path).removesuffix(".py").split("/")[0])
    for module in imports(path):
        if module.startswith("serengeti_etl."):
            assert layer_of(module) <= own, f"{name_of(path)} imports {module}"


def test_there_are_no_import_cycles() -> None:
    """Modules can be put in an order in which each imports only earlier ones."""
    known = {f"serengeti_etl.{name_of(path)[:-3].replace('/', '.')}": path for path in modules()}
    waiting = {name: {m for m in imports(path) if m in known} for name, path in known.items()}
    waiting.pop("serengeti_etl.__init__")
    while waiting:
        ready = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        assert ready, f"a cycle among {sorted(waiting)}"
        for name in ready:
            del waiting[name]


@pytest.mark.parametrize("package", sorted(HOMES))
def test_heavy_packages_are_imported_at_home_only(package: str) -> None:
    """Each heavy package is imported in the one file that is its home, and is imported there."""
    found = {
        name_of(path)
        for path in modules()
        if any(module.split(".")[0] == package for module in imports(path))
    }
    assert found == HOMES[package]


def test_torch_stays_in_the_training_half() -> None:
    """Of what trains nothing imports Dask or the converter, of which inference has the resize."""
    for path in modules():
        found = set(imports(path))
        is_inference = name_of(path).startswith(INFERENCE_ROOMS)
        is_training = is_inference or name_of(path).startswith(TORCH_ROOMS)
        if any(module.split(".")[0] == "torch" for module in found):
            assert is_training, f"{name_of(path)} imports torch"
        if is_training:
            assert not {m for m in found if m.startswith(("serengeti_etl.cluster", "dask"))}
            converting = {m for m in found if m.startswith("serengeti_etl.convert")}
            assert converting <= (SHARED if is_inference else set())


def test_importing_the_package_brings_nothing_heavy_along() -> None:
    """``import serengeti_etl`` loads neither torch, Dask, libvips, pandas nor pyarrow."""
    code = "import sys, serengeti_etl; print(sorted(m for m in sys.modules if '.' not in m))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "dask", "distributed", "pyvips", "pandas", "pyarrow", "webdataset", "PIL"}
    assert not heavy & set(ast.literal_eval(shown.stdout))


@pytest.mark.parametrize(
    "module",
    ["serengeti_etl.cli.main", "serengeti_etl.convert.season", "serengeti_etl.browse.pages"],
)
def test_the_converting_half_does_not_load_torch(module: str) -> None:
    """The command line, the converter and the pages start without torch and Dask."""
    code = f"import sys, {module}; print('torch' in sys.modules, 'distributed' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_every_public_name_can_be_had() -> None:
    """Each name in ``__all__`` is importable, and unknown ones are an AttributeError."""
    for name in serengeti_etl.__all__:
        assert getattr(serengeti_etl, name) is not None
    assert set(serengeti_etl.__all__) <= set(dir(serengeti_etl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = serengeti_etl.nothing


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_command_line_prints_and_nothing_reads_our_own_environment(path: Path) -> None:
    """No ``print`` outside cli/, no environment variable read anywhere, no broad except."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and node.id == "print":
            assert name_of(path).startswith("cli/")
        reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if reads and name_of(path) != "cluster.py":  # which puts back what Dask changed
            pytest.fail(f"{name_of(path)} reads the environment")
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("Exception", "BaseException", "everything"), name_of(path)


def test_every_test_states_a_behaviour() -> None:
    """Each test has a docstring of one line that ends in a full stop."""
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                stated = ast.get_docstring(node) or ""
                assert stated.endswith("."), f"{path.name}: {node.name}"
                assert "\n" not in stated, f"{path.name}: {node.name}"
