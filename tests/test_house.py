"""Laws of the house, read off the source: who imports whom, which module is the door to a library, what is never done.

Each law is a function of source text, shown to fail on a small example, and then applied to every file of src/ift and
to the two commands. `make check` has import-linter beside it, which knows the order of the floors.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from tests.running import ROOT

SRC = ROOT / "src"
COMMANDS = ("train.py", "evaluate.py")


@cache
def sources() -> dict[str, str]:
    """Path below src/ift, or the name of a command -> source text."""
    files = {str(path.relative_to(SRC / "ift")): path.read_text() for path in sorted((SRC / "ift").rglob("*.py"))}
    return {**files, **{name: (ROOT / name).read_text() for name in COMMANDS}}


def module_of(path: str) -> str:
    """ "text/bpe.py" -> "ift.text.bpe"; a package is named by its folder."""
    return ".".join(("ift", *Path(path).with_suffix("").parts)).removesuffix(".__init__")


# -- imports -----------------------------------------------------------------------------------------------------------


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: the body of `if TYPE_CHECKING:` cannot."""
    todo = deque([tree])
    while todo:
        node = todo.popleft()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            todo.extend(node.orelse)
        else:
            todo.extend(ast.iter_child_nodes(node))


def imported(source: str, path: str) -> set[str]:
    """What a file imports when it runs, at its top or inside a function: "a.b" of `import a.b`, "a.b.c" of `from a.b
    import c`. In a file that calls import_module, each text that could be the name of a module of ours counts too."""
    names, by_text, texts = set(), False, set()
    package = [*module_of(path).split("."), *([""] if path.endswith("__init__.py") else [])]
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            begin = ".".join(package[: -node.level]) if node.level else ""
            base = ".".join(part for part in (begin, node.module) if part)
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("ift."):
            texts.add(node.value)
        by_text |= isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node).endswith("import_module")
    return names | (texts if by_text else set())


def graph_of(files: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules among these that it imports. A package that holds nothing itself is passed over."""
    modules = {module_of(path): path for path in files}

    def target(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    found = {module: {target(name) for name in imported(files[path], path)} for module, path in modules.items()}
    return {module: {other for other in others if other and other != module} for module, others in found.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The shortest way from each module back to itself, each circle once; its smallest name stands first."""
    found = set()
    for start in graph:
        ways, seen = deque([[start]]), set()
        while ways:
            way = ways.popleft()
            if start in graph.get(way[-1], ()):
                first = way.index(min(way))
                found.add(tuple(way[first:] + way[:first]))
                break
            onward = sorted(graph.get(way[-1], set()) - seen)
            seen.update(onward)
            ways.extend([*way, other] for other in onward)
    return [list(circle) for circle in sorted(found, key=lambda circle: (len(circle), circle))]


def test_a_circle_is_found_however_it_is_written_and_named():
    files = {
        "a.py": "import ift.b",
        "b.py": "def f():\n    from ift import c",
        "c.py": "from .a import x",
        "d.py": "from ift.pages.e import y",
        "pages/__init__.py": "",
        "pages/e.py": "try:\n    from ..d import z\nexcept ImportError: pass",
        "f.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ift.g\nelse:\n    import ift.a",
        "g.py": "import ift.f",
        "h.py": "import importlib\nTABLE = {'k': 'ift.i'}\nimportlib.import_module(TABLE['k'])",
        "i.py": "import ift.h",
        "j.py": "COMMAND = 'ift.k'  # a process of its own, not an import",
        "k.py": "import ift.j",
    }
    assert circles(graph_of(files)) == [
        ["ift.d", "ift.pages.e"],
        ["ift.h", "ift.i"],
        ["ift.a", "ift.b", "ift.c"],
    ]


def test_no_module_imports_one_that_imports_it():
    files = {path: source for path, source in sources().items() if path not in COMMANDS}
    assert [" -> ".join([*circle, circle[0]]) for circle in circles(graph_of(files))] == []


# -- doors -------------------------------------------------------------------------------------------------------------

DOORS = {  # library -> the files and folders that may import it
    "tiktoken": ("text/",),
    "tokenizers": ("text/",),
    "bitsandbytes": ("training/optimizers.py", "model/nf4.py"),
    "sentencepiece": ("text/",),
    "jinja2": ("pages/", "text/", "export/card.py"),
    "hydra": ("entry/", "commands/"),
    "ray": ("entry/sweeps.py",),
    "wandb": ("training/weights_and_biases.py",),
    "lm_eval": ("evaluation/harness/",),
    "alpaca_eval": ("evaluation/packages/",),
    "evals": ("evaluation/packages/",),  # in a process of its own, as alpaca_eval
    "http.client": ("evaluation/judge/",),
    "urllib.request": ("evaluation/judge/", "export/llama_cpp.py"),
    "http.server": ("apps/",),
    "aiohttp": ("apps/serving/",),
    "prometheus_client": ("apps/serving/",),
    "gguf": ("export/", "artifacts/smollm2.py"),  # written, and read
    "matplotlib": ("pages/",),
    "safetensors": ("artifacts/", "training/checkpoint.py"),
}


def past_a_door(files: dict[str, str]) -> list[str]:
    """Each import of a library beside its door."""
    return [
        f"{path}: {name}"
        for path, source in files.items()
        for name in sorted(imported(source, path))
        for library, doors in DOORS.items()
        if f"{name}.".startswith(f"{library}.") and not path.startswith(doors)
    ]


def test_an_import_beside_the_door_is_found():
    files = {
        "text/tokenizers.py": "import tiktoken",
        "data/batches.py": "def f():\n    import tiktoken.load as t",
        "export/card.py": "import jinja2",
        "export/export.py": "from jinja2 import Template",
        "training/module.py": "import wandb_like",  # another library
        "cli.py": "from hydra.core import x",
        "commands/train.py": "import hydra",
        "apps/page.py": "from http import server, HTTPStatus",
        "data/hub.py": "from http import server\nfrom urllib.parse import urlsplit",
        "apps/review.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import openai",
    }
    assert past_a_door(files) == [
        "data/batches.py: tiktoken.load",
        "export/export.py: jinja2.Template",
        "cli.py: hydra.core.x",
        "data/hub.py: http.server",
    ]


def test_each_library_has_one_door():
    assert past_a_door(sources()) == []


# -- what only the model knows, and what is never done -----------------------------------------------------------------

INSIDE = ("wte", "lm_head")  # of the network: others ask for hidden states, logits, the head's loss


def looks_inside(source: str) -> list[int]:
    """Lines that take a part of the network by its name."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
            name = getattr(node.args[1], "value", None)
        else:
            name = node.attr if isinstance(node, ast.Attribute) else None
        lines += [node.lineno] if name in INSIDE else []
    return sorted(lines)


def test_a_look_inside_the_model_is_found():
    assert looks_inside("a = model.wte.weight\nb = getattr(model, 'lm_head')\nc = tensors['lm_head.weight']") == [1, 2]


def test_only_the_model_and_its_files_know_the_names_of_its_parts():
    found = {
        path: lines
        for path, source in sources().items()
        if not path.startswith(("model/", "artifacts/weights")) and (lines := looks_inside(source))
    }
    assert found == {}


UNPICKLES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
ALLOWED = {  # what runs code that a file names, and why it may
    ("evaluation/code/sandbox_inside.py", "exec"): "the programs that are judged, behind the wall",
    ("evaluation/code/sandbox_inside.py", "__import__"): "modules of Python itself, before the wall is shut",
    ("evaluation/engines.py", "import_module"): "one of the modules in the table of that file",
}


def runs_what_a_file_says(source: str, path: str) -> list[str]:
    """Unpickling, evaluated text, and imports of a name that is not written there, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(node.lineno, name) for name in names if name.split(".")[0] in UNPICKLES]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.split(".")[-1]
            literal = bool(node.args) and isinstance(node.args[0], ast.Constant)
            found += [(node.lineno, last)] if last in ("import_module", "__import__") and not literal else []
            found += [(node.lineno, name)] if name in ("eval", "exec", "torch.load", "builtins.eval") else []
            found += [(node.lineno, name)] if name in ("yaml.load", "yaml.unsafe_load") else []
            pickled = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
            found += [(node.lineno, "allow_pickle")] if pickled else []
    return [f"{path}:{line}: {what}" for line, what in sorted(found) if (path, what) not in ALLOWED]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("state = torch.load(path)", "torch.load"),
        ("value = eval(text)", "eval"),
        ("exec(compile(text, '', 'exec'))", "exec"),
        ("importlib.import_module(config['class'])", "import_module"),
        ("__import__(name)", "__import__"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("yaml.load(text)", "yaml.load"),
        ("model.eval()", None),
        ("importlib.import_module('json')", None),
        ("np.load(path, allow_pickle=False)", None),
        ("yaml.safe_load(text)", None),
    ],
)
def test_what_runs_code_from_a_file_is_found(source, what):
    assert runs_what_a_file_says(source, "x.py") == ([f"x.py:1: {what}"] if what else [])


def test_nothing_is_unpickled_evaluated_or_imported_by_a_name_from_a_file():
    assert [each for path, source in sources().items() for each in runs_what_a_file_says(source, path)] == []


# -- files -------------------------------------------------------------------------------------------------------------


def not_packed(files: list[str], package_data: dict[str, list[str]]) -> list[str]:
    """Files below src that a wheel would lack: in a folder that is no package, or named by no glob of its package."""
    packages = {str(Path(file).parent) for file in files if Path(file).name == "__init__.py"}

    def packed(file: str) -> bool:
        folder, name = str(Path(file).parent), Path(file).name
        globs = [glob for key in ("", "*", folder.replace("/", ".")) for glob in package_data.get(key, [])]
        return folder in packages and (name.endswith(".py") or any(fnmatch(name, glob) for glob in globs))

    return [file for file in files if not packed(file)]


def test_a_file_that_a_wheel_would_lack_is_found():
    files = ["ift/__init__.py", "ift/py.typed", "ift/a/__init__.py", "ift/a/x.j2", "ift/a/x.css", "ift/b/y.py"]
    assert not_packed(files, {"ift": ["py.typed"], "ift.a": ["*.j2"]}) == ["ift/a/x.css", "ift/b/y.py"]


def test_a_wheel_has_every_template_and_every_folder():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert options["packages"]["find"] == {"where": ["src"]}
    files = [path for path in sorted((SRC / "ift").rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    names = [str(path.relative_to(SRC)) for path in files]
    assert any(name.endswith(".j2") for name in names)
    assert not_packed(names, options["package-data"]) == []


OF_SEVERAL_MODULES = {  # tests below a folder that no single module of that name answers for
    "artifacts/test_any_gpt2.py": "a pretrained model from its files to a tuned folder",
    "evaluation/test_all.py": "eval=all, which starts the others",
    "long/test_adapters.py": "adapters by the real commands, from a base that cannot stop to what is merged",
    "long/test_compile.py": "a training whose blocks are compiled",
    "long/test_families.py": "every family against transformers",
    "long/test_loading.py": "memory of a model of half a gigabyte while it is read",
    "long/test_family_runs.py": "every family through the commands, from its files to an export",
    "long/test_demo_run.py": "the built-in default, whole",
    "long/test_real.py": "a real pretrained model, from its package to the page of its run",
    "long/test_review.py": "a review of 52,000 answers, and of two people while it is killed",
    "long/test_serving_clients.py": "clients of ift serve that have many packages of their own",
    "long/test_sweeps.py": "sweeps with jobs in processes of their own",
    "long/test_launchers.py": "trainings on several ranks, however they are started",
    "long/test_sharded.py": "trainer=fsdp at random: configurations, numbers of ranks, kills, damage",
    "long/test_tokenizers.py": "real vocabularies of every kind",
    "long/test_weights_and_biases.py": "W&B with real processes",
    "long/test_wheel.py": "what pip installs",
    "model/test_border.py": "rows on both sides of longrope's border: answers, likelihoods, losses",
    "pages/test_accessibility.py": "all pages, by axe-core",
    "pages/test_hostile_answers.py": "all pages, in a browser",
    "training/test_safeguards.py": "sealed files, checkpoints, resuming and the finite step, each taken out once",
    "training/test_seed_parity.py": "a whole training against a plain reference",
    "training/test_steps.py": "the module with each optimizer: divided, clipped, skipped",
    "training/test_two_ranks.py": "a whole training on two processes",
    "training/test_unpadded.py": "layouts, head and module: packed rows against padded ones",
}


def without_a_module(tests: list[str], modules: set[str]) -> list[str]:
    """Tests in a folder, A/test_B.py, of which there is no module A/B.py or package A/B."""
    named = [(test, str(Path(test).with_name(Path(test).name.removeprefix("test_")))) for test in tests]
    names = modules | {f"{Path(module).parent}.py" for module in modules if module.endswith("/__init__.py")}
    return [test for test, module in named if "/" in test and module not in names]


def test_a_test_without_a_module_is_found():
    modules = {"text/__init__.py", "text/bpe.py", "model/families/__init__.py"}
    tests = ["test_cli.py", "text/test_bpe.py", "model/test_families.py", "text/test_tokens.py", "data/test_bpe.py"]
    assert without_a_module(tests, modules) == ["text/test_tokens.py", "data/test_bpe.py"]


def test_tests_lie_where_their_modules_lie():
    tests = sorted(str(path.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py"))
    assert sorted(without_a_module(tests, set(sources()))) == sorted(OF_SEVERAL_MODULES)


PLACES = re.compile(  # of one machine, or of one package index
    r"/(?:home|Users|root|work|mnt)/[\w.]|[A-Z]:\\\\Users|pypi\.org|pythonhosted|--(?:extra-)?index-url|find-links"
)


def test_a_path_of_a_machine_and_a_package_index_are_seen():
    for text in ("open('/home/me/x')", "/work/shared", "pip install --index-url X", "https://pypi.org/simple"):
        assert PLACES.search(text)
    for text in ("a/homework/b", "/usr/lib", "pip install ift", "src/work in progress"):
        assert not PLACES.search(text)


def test_no_file_names_a_path_of_a_machine_or_a_package_index():
    files = [path for path in (SRC / "ift").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in files}
    texts |= {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path: match.group() for path, text in texts.items() if (match := PLACES.search(text))} == {}
